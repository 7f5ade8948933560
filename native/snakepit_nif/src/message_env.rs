//! Environments of messages, which are used again.
//!
//! A reply takes its environment on a scheduler's thread and uses it up on one of tokio's. If that freed its memory, the
//! BEAM would have to wake the scheduler to collect it, for each call.

use parking_lot::Mutex;
use rustler::OwnedEnv;
use std::ops::{Deref, DerefMut};

/// How many unused ones are kept.
const KEPT: usize = 1024;
/// How many references an environment has taken when it is cleared. That frees the memory which the next reference
/// would use.
const REFERENCES: u8 = 16;

static UNUSED: Mutex<Vec<MessageEnv>> = Mutex::new(Vec::new());

#[derive(Default)]
pub(crate) struct MessageEnv {
    env: OwnedEnv,
    references: u8,
}

pub(crate) fn take() -> MessageEnv {
    let unused = UNUSED.lock().pop();
    unused.unwrap_or_default()
}

impl MessageEnv {
    /// Keeps it after it was cleared.
    pub(crate) fn keep_cleared(mut self) {
        self.references = 0;
        self.keep();
    }

    /// Keeps it after a reference was copied to it, and nothing else.
    pub(crate) fn keep_used(mut self) {
        self.references += 1;
        if self.references == REFERENCES {
            self.env.clear();
            self.references = 0;
        }
        self.keep();
    }

    fn keep(self) {
        let mut unused = UNUSED.lock();
        if unused.len() < KEPT {
            unused.push(self);
        }
    }
}

impl Deref for MessageEnv {
    type Target = OwnedEnv;

    fn deref(&self) -> &OwnedEnv {
        &self.env
    }
}

impl DerefMut for MessageEnv {
    fn deref_mut(&mut self) -> &mut OwnedEnv {
        &mut self.env
    }
}
