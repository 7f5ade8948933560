//! Serves the RPCs of `proto/snakepit.proto`, each in its own file.

mod calls;
mod converse;
mod end_session;
mod execute;
mod health;
mod info;
mod stream;

use crate::worker::Worker;
use http::request::Parts;
use snakepit_proto::{ExecuteRequest, SessionRequest};
use snakepit_server::{Rpc, Service};
use std::sync::Arc;
use tonic::Status;

const NAME: &str = "/snakepit.SnakepitBridge/";

impl Service for Worker {
    async fn serve(self: Arc<Self>, mut rpc: Rpc) {
        if let Err(status) = route(&self, &mut rpc).await {
            rpc.fail(&status);
        }
    }

    fn ends_when_asked(head: &Parts) -> bool {
        !head.uri.path().ends_with("/Calls") || calls::takes_draining(head)
    }
}

async fn route(worker: &Worker, rpc: &mut Rpc) -> Result<(), Status> {
    let path = rpc.head.uri.path().to_owned();
    match path.strip_prefix(NAME).unwrap_or_default() {
        "Calls" => calls::serve(worker, rpc).await,
        "Execute" => execute::serve::<ExecuteRequest>(worker, rpc).await,
        "ExecuteInSession" => execute::serve::<SessionRequest>(worker, rpc).await,
        "ExecuteStream" => stream::serve::<ExecuteRequest>(worker, rpc).await,
        "ExecuteInSessionStream" => stream::serve::<SessionRequest>(worker, rpc).await,
        "Converse" => converse::serve(worker, rpc).await,
        "Health" => health::serve(worker, rpc).await,
        "GetInfo" => info::serve(worker, rpc).await,
        "EndSession" => end_session::serve(worker, rpc).await,
        _ => Err(Status::unimplemented(format!("there is no method {path}"))),
    }
}
