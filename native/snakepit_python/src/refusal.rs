//! Calls that no command can serve. Only Python can say why, and it may be busy.

use crate::{call::Responder, journal::CallsStream};
use parking_lot::Mutex;
use snakepit_proto::HandlerExit;
use snakepit_server::Failure;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

/// How many may wait for Python at once. Cancellations wait behind them.
const MAX_WAITING: usize = 128;

pub(crate) struct Refusal {
    call_id: u64,
    responder: Responder,
    answered: AtomicBool,
}

impl Refusal {
    /// Answers the call, unless it has an answer.
    pub(crate) fn answer(&self, failure: impl FnOnce() -> Failure) {
        if self.answered.load(Ordering::Acquire) {
            return;
        }
        // The call can be cancelled while Python makes this.
        let failure = failure();
        if !self.answered.swap(true, Ordering::AcqRel) {
            self.responder.refuse(failure, HandlerExit::Unknown);
        }
    }
}

/// Those that have no answer, and some that have one.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<Vec<Weak<Refusal>>>);

impl Refusals {
    /// Returns a refusal that Python is to answer. None if too many wait: then the call has `failure`.
    pub(crate) fn add(
        &self,
        call_id: u64,
        responder: Responder,
        failure: impl FnOnce() -> Failure,
    ) -> Option<Arc<Refusal>> {
        let refusal = Arc::new(Refusal {
            call_id,
            responder,
            answered: AtomicBool::new(false),
        });
        {
            let mut refusals = self.0.lock();
            refusals.retain(|refusal| refusal.strong_count() > 0);
            if refusals.len() < MAX_WAITING {
                refusals.push(Arc::downgrade(&refusal));
                return Some(refusal);
            }
        }
        refusal.answer(failure);
        None
    }

    pub(crate) fn cancel(&self, call_id: u64, calls: &CallsStream) {
        let refusals: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for refusal in refusals {
            if refusal.call_id == call_id && refusal.responder.is_on(calls) {
                refusal.answer(Failure::cancelled);
            }
        }
    }
}
