//! Sends the chunks of a stream to its client.

use crate::{
    chunk_buffer::GATHERED_FOR,
    grpc::{Gone, send},
    stream_responder::StreamResponder,
};
use bytes::Bytes;
use h2::SendStream;
use std::{future::poll_fn, pin::pin, task::Poll, time::Instant};

/// Returns once all chunks are sent, or the client is gone.
pub async fn send_chunks(
    stream: &mut SendStream<Bytes>,
    responder: &StreamResponder,
) -> Result<(), Gone> {
    let chunks = responder.buffer();
    let mut gathered = pin!(tokio::time::sleep(GATHERED_FOR));
    while let Some(bytes) = poll_fn(|cx| match stream.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(Err(Gone)),
        Poll::Pending => chunks
            .poll_take(cx, |cx| gathered.as_mut().poll(cx))
            .map(Ok),
    })
    .await?
    {
        send(stream, bytes).await?;
        gathered
            .as_mut()
            .reset((Instant::now() + GATHERED_FOR).into());
    }
    Ok(())
}
