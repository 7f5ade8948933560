//! `Execute` and `ExecuteInSession` answer a call with one message.

use crate::{call::Responder, worker::Worker};
use prost::Message;
use snakepit_proto::{CallHeader, HandlerExit};
use snakepit_server::{CallRequest, Failure, Outcome, Rpc};
use tonic::Status;

pub(super) async fn serve<M>(worker: &Worker, rpc: &mut Rpc) -> Result<(), Status>
where
    M: Message + Default + Into<CallHeader>,
{
    let limit = worker.settings.max_message_size;
    let CallRequest { header, deadline } = CallRequest::read::<M>(rpc, limit).await?;
    let request_id = header.request_id().to_owned();
    let (responder, outcome) = Responder::unary();
    let call = worker.call(header, responder, &rpc.peer);
    if !worker.submit(call.clone()) {
        return Err(Status::resource_exhausted(worker.full()));
    }
    let not_run = |failure| Outcome::not_run(failure, HandlerExit::Unknown);
    let (outcome, events) = tokio::select! {
        outcome = outcome => outcome.unwrap_or_else(|_| {
            let why = "the worker dropped the call without an answer";
            (not_run(Failure::new("internal_error", why)), Vec::new())
        }),
        () = rpc.given_up() => {
            worker.cancel_one(call.as_ref());
            return Ok(());
        }
        () = deadline.passed() => {
            worker.cancel_one(call.as_ref());
            (not_run(deadline.failure()?), Vec::new())
        }
    };
    rpc.answer_in_parts(&mut outcome.into_response(request_id, events));
    Ok(())
}
