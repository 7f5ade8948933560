//! `Calls` carries many unary calls in one RPC.

use crate::{
    call::{Call, Responder},
    journal::CallsStream,
    worker::Worker,
};
use http::request::Parts;
use snakepit_proto::{CallFrame, call_frame::Act};
use snakepit_server::{Rpc, unreadable};
use snakepit_wire::{BatchingSender, Deframer, FRAME_OVERHEAD, TAKES_DRAINING_HEADER};
use std::{future::poll_fn, sync::Arc};
use tonic::Status;

pub(super) async fn serve(worker: &Worker, rpc: &mut Rpc) -> Result<(), Status> {
    let takes_draining = takes_draining(&rpc.head);
    let Ok(stream) = rpc.begin() else {
        return Ok(());
    };
    let sender = BatchingSender::new(rpc.connection.clone(), stream);
    let calls = Arc::new(CallsStream::new(sender));
    if worker.has_journal() {
        calls.offer_journal();
    }
    let limit = worker.settings.max_message_size;
    let mut deframer = Deframer::new(limit.saturating_add(FRAME_OVERHEAD));
    let mut told = !takes_draining;
    // The calls of a client that breaks the protocol are cancelled, as those of one that is gone.
    loop {
        let received = poll_fn(|cx| {
            calls.drain(cx.waker());
            rpc.body.poll_data(cx)
        });
        let data = tokio::select! {
            biased;
            () = rpc.draining.cancelled(), if !told => {
                told = true;
                calls.tell_draining();
                continue;
            }
            data = received => data,
            () = rpc.end.cancelled() => None,
        };
        let Some(Ok(data)) = data else {
            break;
        };
        let _ = rpc.body.flow_control().release_capacity(data.len());
        deframer.push(data);
        let mut received = Vec::new();
        let read = read_frames(worker, &mut deframer, &calls, &rpc.peer, &mut received);
        worker.submit(received);
        if let Err(status) = read {
            calls.end(&status);
            break;
        }
    }
    worker.cancel(|call| call.responder.is_on(&calls));
    if rpc.body.is_end_stream() {
        calls.end(&Status::ok(""));
    }
    Ok(())
}

/// Whether the client reads `DRAINING`, and then ends the RPC.
pub(super) fn takes_draining(head: &Parts) -> bool {
    head.headers.contains_key(TAKES_DRAINING_HEADER)
}

/// Calls that arrived together are submitted together.
fn read_frames(
    worker: &Worker,
    deframer: &mut Deframer,
    calls: &Arc<CallsStream>,
    peer: &Arc<str>,
    received: &mut Vec<Arc<Call>>,
) -> Result<(), Status> {
    while let Some(frame) = deframer
        .next::<CallFrame>()
        .map_err(|error| unreadable(&error))?
    {
        if frame.act() == Act::Call {
            let responder = Responder::frame(calls.clone(), frame.call_id);
            received.extend(worker.call(frame.into(), responder, peer));
        } else {
            worker.submit(received.drain(..));
            act(worker, &frame, calls);
        }
    }
    Ok(())
}

fn act(worker: &Worker, frame: &CallFrame, calls: &CallsStream) {
    let which = |call: &Call| call.header.call_id() == frame.call_id && call.responder.is_on(calls);
    match frame.act() {
        Act::Cancel => {
            worker.cancel(which);
            worker.refusals.cancel(frame.call_id, calls);
        }
        Act::Recall => worker.give_back(which),
        Act::StartJournal => {
            if let Some(journal) = worker.take_journal() {
                calls.use_journal(journal);
            }
        }
        Act::Call => {}
    }
}
