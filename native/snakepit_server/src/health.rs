//! The service `grpc.health.v1`, for load balancers and probes: it needs no secret, and learns of nothing but whether
//! the server takes calls.

use crate::grpc::{Rpc, end, is_reset, send};
use bytes::{Bytes, BytesMut};
use snakepit_proto::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};
use snakepit_wire::append;
use std::time::Duration;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tonic::Status;

const PREFIX: &str = "/grpc.health.v1.Health/";
/// What clients may ask for: the server as a whole, or its service.
const SERVICES: [&str; 2] = ["", "snakepit.SnakepitBridge"];
/// The largest request: anyone may send one.
const LIMIT: usize = 4096;
/// How long a request may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
/// How many of these RPCs may be open.
const MAX_OPEN: usize = 1024;

pub(crate) struct Health {
    serving: watch::Sender<bool>,
    open: Semaphore,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            serving: watch::Sender::new(true),
            open: Semaphore::new(MAX_OPEN),
        }
    }
}

impl Health {
    pub(crate) fn serves(rpc: &Rpc) -> bool {
        rpc.head.uri.path().starts_with(PREFIX)
    }

    /// From now on the server takes no calls.
    pub(crate) fn stop_serving(&self) {
        self.serving.send_replace(false);
    }

    pub(crate) async fn serve(&self, mut rpc: Rpc) {
        if let Err(status) = self.route(&mut rpc).await {
            rpc.fail(&status);
        }
    }

    async fn route(&self, rpc: &mut Rpc) -> Result<(), Status> {
        let _place = self
            .open
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("too many health checks are open"))?;
        let method = rpc.head.uri.path().trim_start_matches(PREFIX).to_owned();
        match method.as_str() {
            "Check" => {
                let request = request(rpc).await?;
                if !is_known(&request) {
                    let why = format!("there is no service {:?}", request.service);
                    return Err(Status::not_found(why));
                }
                let serving = *self.serving.borrow();
                rpc.answer(&response(status(serving)));
                Ok(())
            }
            "Watch" => {
                let request = request(rpc).await?;
                self.watch(rpc, &request).await;
                Ok(())
            }
            _ => Err(Status::unimplemented(format!(
                "grpc.health.v1 has no method {method}"
            ))),
        }
    }

    /// Sends the status, and each change of it, until the client must leave.
    async fn watch(&self, rpc: &mut Rpc, request: &HealthCheckRequest) {
        let Ok(mut stream) = rpc.begin() else {
            return;
        };
        let mut changes = self.serving.subscribe();
        loop {
            let serving = *changes.borrow_and_update();
            let status = if is_known(request) {
                status(serving)
            } else {
                ServingStatus::ServiceUnknown
            };
            if send(&mut stream, framed(status)).await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = rpc.draining.cancelled() => break,
                () = is_reset(&mut stream) => return,
            }
        }
        end(
            &mut stream,
            Some(&Status::unavailable(
                "the client must leave this connection",
            )),
        );
    }
}

async fn request(rpc: &mut Rpc) -> Result<HealthCheckRequest, Status> {
    timeout(ARRIVES_WITHIN, rpc.message(LIMIT))
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("the request did not arrive")))
}

fn is_known(request: &HealthCheckRequest) -> bool {
    SERVICES.contains(&request.service.as_str())
}

fn status(serving: bool) -> ServingStatus {
    if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

fn framed(status: ServingStatus) -> Bytes {
    let mut bytes = BytesMut::new();
    append(&mut bytes, &response(status));
    bytes.freeze()
}
