//! Starts and ends the network's thread.

use crate::{
    connections::{Connections, Service},
    io_driver::IoDriver,
    secret::Secret,
};
use parking_lot::Mutex;
use snakepit_wire::Address;
use std::{io, sync::Arc, thread::JoinHandle};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub struct Server {
    address: Address,
    driver: Arc<IoDriver>,
    stop: CancellationToken,
    end: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    pub fn start(
        address: &Address,
        secret: Secret,
        driver: Arc<IoDriver>,
        service: Arc<impl Service>,
    ) -> io::Result<Self> {
        let listener = {
            let _runtime = driver.enter();
            address.bind()?
        };
        let address = listener.address().clone();
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let tasks = driver.tasks().clone();
        let connections = Connections::new(service, secret, tasks, stop.clone(), end.clone());
        let (served, serving) = oneshot::channel();
        driver.tasks().spawn(async move {
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
            stop,
            end,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Accepts no further connections, and asks clients to leave.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Sends finished answers and ends the thread. Must be called without Python's lock.
    pub fn end(&self) {
        self.stop.cancel();
        self.end.cancel();
        self.driver.end();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}
