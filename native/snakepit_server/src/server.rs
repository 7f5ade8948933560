//! Starts and ends the network's thread.

use crate::{
    connections::{Connections, Network, Service},
    grpc::Rpc,
    io_driver::IoDriver,
    secret::Secrets,
};
use parking_lot::Mutex;
use snakepit_wire::{Address, Listener, tls::server::ServerTls};
use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;
use tonic::Status;

/// Where and how a server listens.
pub struct Listen {
    pub address: Address,
    pub tls: Option<ServerTls>,
    pub secrets: Secrets,
    /// After this time a client is asked to leave its connection.
    pub max_connection_age: Option<Duration>,
    /// How long a command's thread waits for a client that does not read replies, unless as long as it takes.
    pub patience: Option<Duration>,
}

pub struct Server {
    address: Address,
    driver: Arc<IoDriver>,
    network: Arc<Network>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    pub fn start(
        listen: Listen,
        driver: Arc<IoDriver>,
        service: Arc<impl Service>,
    ) -> io::Result<Self> {
        let listener = bind(&driver, &listen.address)?;
        let address = listener.address().clone();
        let network = Arc::new(Network::new(
            listen.secrets,
            listen.max_connection_age,
            listen.patience,
            driver.tasks().clone(),
        ));
        let connections = Connections::new(service, network.clone(), listen.tls);
        let (served, serving) = oneshot::channel();
        driver.spawn(async move {
            connections.serve(listener).await;
            // If this task panics, the thread learns of it as well.
            drop(served);
        });
        let standing_by = driver.clone();
        let thread = std::thread::Builder::new()
            .name("snakepit-io".into())
            .spawn(move || standing_by.stand_by(serving))?;
        Ok(Self {
            address,
            driver,
            network,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Answers health checks, and nothing else, at a further address; returns it.
    pub fn listen_for_health(&self, address: &Address) -> io::Result<Address> {
        let listener = bind(&self.driver, address)?;
        let address = listener.address().clone();
        let connections = Connections::new(Arc::new(HealthOnly), self.network.clone(), None);
        self.driver.spawn(connections.serve(listener));
        Ok(address)
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn secrets(&self) -> &Secrets {
        &self.network.secrets
    }

    /// Asks clients to leave, and still accepts further ones, which learn that the server is going to end.
    pub fn drain(&self) {
        self.network.health.stop_serving();
        self.network.shutdown.draining.cancel();
    }

    /// As `drain`, and accepts no further connections.
    pub fn stop(&self) {
        self.drain();
        self.network.shutdown.stop.cancel();
    }

    /// Waits, after `stop`, until no client has an RPC that it can end. Must be called without Python's lock.
    pub fn wait_drained(&self, timeout: Duration) {
        let shutdown = self.network.shutdown.clone();
        let (done, is_done) = mpsc::channel();
        self.driver.spawn(async move {
            shutdown.drained().await;
            // The receiver may have given up.
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(timeout);
    }

    /// Sends finished answers and ends the thread. Must be called without Python's lock.
    pub fn end(&self) {
        self.stop();
        self.network.shutdown.end.cancel();
        self.driver.end();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn bind(driver: &IoDriver, address: &Address) -> io::Result<Listener> {
    let _runtime = driver.enter();
    address.bind()
}

/// What a listener for health checks serves besides them.
struct HealthOnly;

impl Service for HealthOnly {
    async fn serve(self: Arc<Self>, mut rpc: Rpc) {
        rpc.fail(&Status::unimplemented(
            "this address only answers grpc.health.v1",
        ));
    }
}
