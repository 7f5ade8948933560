//! What arrives on a connection, in pieces of any size: cut into messages, and those read.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use snakepit_proto::{
    CallFrame, ConverseDown, ConverseUp, ExecuteResponse, Fields, ReplyFrame, SessionRequest,
    StreamResponse,
};
use snakepit_wire::Deframer;

const LIMIT: usize = 64 * 1024;

fuzz_target!(|data: (u8, Vec<u8>)| {
    let (piece, stream) = data;
    let stream = Bytes::from(stream);
    read(stream.clone());
    let mut deframer = Deframer::new(LIMIT);
    for start in (0..stream.len()).step_by(usize::from(piece) + 1) {
        deframer.push(stream.slice(start..stream.len().min(start + usize::from(piece) + 1)));
        loop {
            match deframer.next::<ReplyFrame>() {
                Ok(Some(frame)) => {
                    assert!(frame.encoded_len() <= LIMIT);
                    in_order(Fields::received(frame.result, frame.result_kinds));
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});

fn read(message: Bytes) {
    if let Ok(frame) = ReplyFrame::decode(message.clone()) {
        in_order(Fields::received(frame.result, frame.result_kinds));
    }
    if let Ok(frame) = CallFrame::decode(message.clone()) {
        in_order(Fields::received(frame.args, frame.arg_kinds));
    }
    if let Ok(response) = ExecuteResponse::decode(message.clone()) {
        in_order(Fields::received(response.result, response.result_kinds));
    }
    if let Ok(chunk) = StreamResponse::decode(message.clone()) {
        in_order(Fields::received(chunk.chunk, chunk.chunk_kinds));
    }
    if let Ok(down) = ConverseDown::decode(message.clone()) {
        for ask in down.asks {
            in_order(Fields::received(ask.args, ask.arg_kinds));
        }
    }
    let _ = ConverseUp::decode(message.clone());
    if let Ok(request) = SessionRequest::decode(message) {
        in_order(Fields::received(request.args, request.arg_kinds));
    }
}

fn in_order(fields: Fields) {
    assert!(fields.values.is_sorted_by(|one, next| one.key < next.key));
}
