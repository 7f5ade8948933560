//! The service `grpc.health.v1`, for load balancers and probes: it needs no secret, and learns of nothing but whether
//! the server takes calls.

use crate::grpc::{Rpc, end, is_reset, send};
use bytes::{Bytes, BytesMut};
use snakepit_proto::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};
use snakepit_wire::append;
use std::time::Duration;
use tokio::{sync::watch, time::timeout};
use tonic::Status;

const PREFIX: &str = "/grpc.health.v1.Health/";
/// What clients may ask for: the server as a whole, or its service.
const SERVICES: [&str; 2] = ["", "snakepit.SnakepitBridge"];
/// The largest request: anyone may send one.
const LIMIT: usize = 4096;
/// How long a request may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);
/// How many of these RPCs may be open on a connection that is not trusted.
const MAX_OPEN: usize = 16;

pub(crate) struct Health {
    serving: watch::Sender<bool>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            serving: watch::Sender::new(true),
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

    /// Of the connection, `open` RPCs of this service are open.
    pub(crate) fn admits(open: usize) -> Result<(), Status> {
        if open < MAX_OPEN {
            return Ok(());
        }
        let why = format!("{MAX_OPEN} health checks are open on this connection");
        Err(Status::resource_exhausted(why))
    }

    pub(crate) async fn serve(&self, mut rpc: Rpc) {
        if let Err(status) = self.route(&mut rpc).await {
            rpc.fail(&status);
        }
    }

    async fn route(&self, rpc: &mut Rpc) -> Result<(), Status> {
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
                () = rpc.draining.cancelled() => {
                    let why = Status::unavailable("the client must leave this connection");
                    return end(&mut stream, Some(&why));
                }
                () = is_reset(&mut stream) => return,
            }
        }
    }
}

async fn request(rpc: &mut Rpc) -> Result<HealthCheckRequest, Status> {
    let whole = async {
        let message = rpc.message(LIMIT).await?;
        // While the RPC is open nobody reads what else the client sends.
        while let Some(data) = rpc.body.data().await {
            match data {
                Ok(data) if data.is_empty() => {}
                Ok(_) => {
                    return Err(Status::invalid_argument(
                        "expected one message in the request, got more",
                    ));
                }
                Err(error) => return Err(Status::internal(error.to_string())),
            }
        }
        Ok(message)
    };
    timeout(ARRIVES_WITHIN, whole)
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
