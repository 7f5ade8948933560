//! Logs each call at its end, if that was asked for.

use crate::{callbacks::Callbacks, control::Control};
use snakepit_proto::CallHeader;
use snakepit_server::EndHook;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// How many lines may wait for Python's lock; further ones are not written.
const MAX_WAITING: usize = 10_000;

pub(crate) struct AccessLog {
    control: Arc<Control>,
    callbacks: Arc<Callbacks>,
    waiting: AtomicUsize,
}

impl AccessLog {
    pub(crate) fn new(control: Arc<Control>, callbacks: Arc<Callbacks>) -> Arc<Self> {
        Arc::new(Self {
            control,
            callbacks,
            waiting: AtomicUsize::new(0),
        })
    }

    /// Logs a call that begins now once it has ended.
    pub(crate) fn hook(self: &Arc<Self>, header: &CallHeader, peer: &Arc<str>) -> EndHook {
        let began = Instant::now();
        let (log, peer) = (self.clone(), peer.clone());
        let command = header.command().to_owned();
        let request_id = header.request_id().to_owned();
        EndHook::new(move |outcome| {
            if log.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
                log.waiting.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            let (seconds, outcome) = (began.elapsed().as_secs_f64(), outcome.to_owned());
            let control = log.control.clone();
            control.run(move |py| {
                log.waiting.fetch_sub(1, Ordering::Relaxed);
                let names = (&*peer, &*command, &*request_id, &*outcome);
                log.callbacks.access(py, names, seconds);
            });
        })
    }
}
