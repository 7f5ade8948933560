//! `EndSession` drops the state of a session.

use crate::worker::Worker;
use snakepit_proto::{EndSessionRequest, EndSessionResponse};
use snakepit_server::Rpc;
use tonic::Status;

pub(super) async fn serve(worker: &Worker, rpc: &mut Rpc) -> Result<(), Status> {
    let request: EndSessionRequest = rpc.message(worker.settings.max_message_size).await?;
    let ended = worker.end_session(request.into()).await;
    rpc.answer(&EndSessionResponse { ended });
    Ok(())
}
