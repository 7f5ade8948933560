//! What has arrived on a connection, and how it is handed out.

use super::{
    feeding::Arrived,
    pending_call::{Exit, Lost, PendingCall, Report, ReturnReason},
    state::Entry,
};
use h2::{PingPong, RecvStream};
use snakepit_proto::ReplyFrame;
use snakepit_wire::Deframer;
use std::collections::VecDeque;

/// Replies of so many bytes take too long for a scheduler's thread.
const LARGE: usize = 16 * 1024;

/// Why no more calls can be sent.
pub struct Ended {
    pub what: Lost,
    pub cause: String,
    /// Whether this side has ended it, and the server may run on.
    pub by_this_side: bool,
}

impl Ended {
    pub(super) fn connection(cause: impl Into<String>) -> Self {
        Self {
            what: Lost::Connection,
            cause: cause.into(),
            by_this_side: false,
        }
    }

    /// The connection, while the server may run on.
    pub(super) fn by_this_side(cause: impl Into<String>) -> Self {
        Self {
            by_this_side: true,
            ..Self::connection(cause)
        }
    }

    pub(super) fn rpc(cause: impl Into<String>) -> Self {
        Self {
            what: Lost::Rpc,
            ..Self::connection(cause)
        }
    }
}

/// The receiving side.
pub(super) struct Receiver<P> {
    pub(super) body: RecvStream,
    pub(super) ping_pong: Option<PingPong>,
    pub(super) deframer: Deframer,
    /// Since the task or a feeder last looked.
    pub(super) arrived: Arrived,
    /// What a thread that feeds the connection has left to the task, in its order.
    pub(super) left: VecDeque<Answer<P>>,
    pub(super) ended: Option<Ended>,
}

/// What a frame means to the caller of its call.
pub(super) enum Answer<P> {
    Reply(Box<Entry<P>>, ReplyFrame),
    Report(Report),
}

impl<P: PendingCall> Receiver<P> {
    pub(super) fn new(body: RecvStream, ping_pong: Option<PingPong>, max_frame: usize) -> Self {
        Self {
            body,
            ping_pong,
            deframer: Deframer::new(max_frame),
            arrived: Arrived::default(),
            left: VecDeque::new(),
            ended: None,
        }
    }

    /// Hands out an answer by `replied`, or leaves it to the task.
    pub(super) fn hand_out(&mut self, answer: Answer<P>, replied: &mut dyn FnMut(P, ReplyFrame)) {
        match answer {
            Answer::Reply(entry, reply)
                if self.left.is_empty() && entry.cancelled_at.is_none() && is_small(&reply) =>
            {
                replied(entry.call, reply);
            }
            answer => self.left.push_back(answer),
        }
    }
}

/// Whether a reply can be handed out on a scheduler's thread.
fn is_small(reply: &ReplyFrame) -> bool {
    let size: usize = reply.result.iter().map(|field| field.value.len()).sum();
    reply.success && !reply.not_started && size < LARGE
}

impl<P: PendingCall> Answer<P> {
    pub(super) fn hand_out(self) {
        match self {
            Self::Report(report) => report(),
            Self::Reply(entry, reply) => match entry.cancelled_at {
                Some(at) => entry
                    .call
                    .exited(Exit::Reported(reply.exit()), at.elapsed()),
                None if reply.not_started => entry.call.not_started(ReturnReason::Recalled),
                None => entry.call.replied(reply),
            },
        }
    }
}
