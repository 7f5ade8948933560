//! `Converse` carries one two-way call: its command asks the client's tools, and reads input streams.

use crate::{call::Responder, worker::Worker};
use bytes::Bytes;
use snakepit_proto::ConverseUp;
use snakepit_server::{CallRequest, Conversation, Rpc, StreamResponder, unreadable};
use snakepit_wire::{Deframer, FRAME_OVERHEAD};
use std::{pin::pin, sync::Arc};
use tonic::Status;

pub(super) async fn serve(worker: &Worker, rpc: &mut Rpc) -> Result<(), Status> {
    let limit = worker.settings.max_message_size;
    let mut deframer = Deframer::new(limit.saturating_add(FRAME_OVERHEAD));
    let mut first = first(rpc, &mut deframer).await?;
    let Some(mut call) = first.call.take() else {
        return Err(Status::invalid_argument(
            "expected `call` in the first message of the RPC",
        ));
    };
    let CallRequest { header, deadline } =
        CallRequest::of(call.call.take().unwrap_or_default().into(), rpc);
    let chunks = call
        .stream
        .then(|| StreamResponder::of_conversation(header.request_id(), limit));
    let conversation = Arc::new(Conversation::new(
        rpc.connection.clone(),
        *call,
        header.call_id(),
        chunks.map(Arc::new),
    ));
    conversation.receive(first)?;
    let responder = Responder::converse(conversation.clone());
    let call = worker.call(header, responder, &rpc.peer);
    if !worker.submit(call.clone()) {
        return Err(Status::resource_exhausted(worker.full()));
    }
    let Ok(stream) = rpc.begin() else {
        worker.cancel_one(call.as_ref());
        return Ok(());
    };
    conversation.open(stream);
    let mut sending = pin!(conversation.send());
    let mut late = false;
    let mut reading = true;
    loop {
        if reading && let Err(status) = receive(&mut deframer, &conversation) {
            conversation.close(&status);
            break;
        }
        tokio::select! {
            biased;
            () = &mut sending => break,
            data = rpc.body.data(), if reading => match data {
                Some(Ok(data)) => push(rpc, &mut deframer, data),
                Some(Err(_)) => break,
                None => {
                    reading = false;
                    conversation.client_ended();
                }
            },
            () = deadline.passed(), if !late => {
                late = true;
                // The answer comes before that of a cancelled call.
                match deadline.failure() {
                    Ok(failure) => conversation.fail_now(failure),
                    Err(status) => conversation.close(&status),
                }
                worker.cancel_one(call.as_ref());
            }
            // A finished answer is still sent.
            () = rpc.end.cancelled(), if !conversation.is_over() => break,
        }
    }
    if !conversation.is_over() {
        worker.cancel_one(call.as_ref());
    }
    Ok(())
}

async fn first(rpc: &mut Rpc, deframer: &mut Deframer) -> Result<ConverseUp, Status> {
    while let Some(data) = rpc.body.data().await {
        let data = data.map_err(|error| Status::internal(error.to_string()))?;
        push(rpc, deframer, data);
        if let Some(message) = deframer.next().map_err(|error| unreadable(&error))? {
            return Ok(message);
        }
    }
    Err(Status::invalid_argument(
        "expected a first message with `call`, got none",
    ))
}

fn push(rpc: &mut Rpc, deframer: &mut Deframer, data: Bytes) {
    let _ = rpc.body.flow_control().release_capacity(data.len());
    deframer.push(data);
}

/// Takes all messages that have arrived.
fn receive(deframer: &mut Deframer, conversation: &Conversation) -> Result<(), Status> {
    while let Some(message) = deframer
        .next::<ConverseUp>()
        .map_err(|error| unreadable(&error))?
    {
        if message.call.is_some() {
            return Err(Status::invalid_argument(
                "only the first message of the RPC may have `call`",
            ));
        }
        conversation.receive(message)?;
    }
    Ok(())
}
