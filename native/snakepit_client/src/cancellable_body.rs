//! The body of a request that is reset when its call is cancelled.
//!
//! The server must not take that for the end of what the client sends: a body that only ends would be read as that.

use bytes::Bytes;
use h2::Reason;
use hyper::body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

/// An extension of a request: once the token is cancelled, the RPC is reset.
#[derive(Clone)]
pub struct ResetOn(pub CancellationToken);

pub(crate) struct CancellableBody {
    body: Body,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CancellableBody {
    pub(crate) fn wrap(body: Body, ResetOn(token): ResetOn) -> Body {
        Body::new(Self {
            body,
            cancelled: Box::pin(token.cancelled_owned()),
        })
    }
}

impl hyper::body::Body for CancellableBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.cancelled.as_mut().poll(cx).is_ready() {
            // hyper resets the stream for the reason that it finds here.
            let reset = h2::Error::from(Reason::CANCEL);
            return Poll::Ready(Some(Err(Status::from_error(Box::new(reset)))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
