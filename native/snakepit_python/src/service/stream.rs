//! `ExecuteStream` and `ExecuteInSessionStream` answer a call with chunks.

use crate::{call::Responder, worker::Worker};
use prost::Message;
use snakepit_proto::CallHeader;
use snakepit_server::{CallRequest, Gone, Rpc, StreamResponder, end, send_chunks};
use std::{pin::pin, sync::Arc};
use tonic::Status;

pub(super) async fn serve<M>(worker: &Worker, rpc: &mut Rpc) -> Result<(), Status>
where
    M: Message + Default + Into<CallHeader>,
{
    let limit = worker.settings.max_message_size;
    let CallRequest { header, deadline } = CallRequest::read::<M>(rpc, limit).await?;
    let chunks = Arc::new(StreamResponder::new(header.request_id(), limit));
    let call = worker.call(header, Responder::stream(chunks.clone()), &rpc.peer);
    if !worker.submit(call.clone()) {
        return Err(Status::resource_exhausted(worker.full()));
    }
    let Ok(mut stream) = rpc.begin() else {
        worker.cancel_one(call.as_ref());
        return Ok(());
    };
    let sent = {
        let mut sending = pin!(send_chunks(&mut stream, &chunks));
        tokio::select! {
            sent = &mut sending => sent.map(|()| None),
            () = deadline.passed() => {
                worker.cancel_one(call.as_ref());
                match deadline.failure() {
                    // The failure is sent after a message that is half sent.
                    Ok(failure) => {
                        chunks.fail_now(failure);
                        sending.await.map(|()| None)
                    }
                    Err(status) => Ok(Some(status)),
                }
            }
        }
    };
    match sent {
        Ok(status) => end(&mut stream, status.as_ref()),
        Err(Gone) => worker.cancel_one(call.as_ref()),
    }
    Ok(())
}
