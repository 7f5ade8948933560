//! Runs what follows from a change of the table, one after the other.

use std::{cell::RefCell, collections::VecDeque};

type Work = Box<dyn FnOnce()>;

thread_local! {
    /// What is left to do, while this thread does something in turn.
    static LEFT: RefCell<Option<VecDeque<Work>>> = const { RefCell::new(None) };
}

/// Runs `work` now or, if it follows from other such work on this thread, after that. A call that gets a lease may give
/// it back at once, so that the next one gets it: a long queue of such calls would overflow the stack.
pub(super) fn in_turn(work: impl FnOnce() + 'static) {
    if LEFT.with_borrow(Option::is_some) {
        let work = Box::new(work);
        return LEFT.with_borrow_mut(|left| left.get_or_insert_default().push_back(work));
    }
    LEFT.set(Some(VecDeque::new()));
    let _end = End;
    work();
    while let Some(next) = next() {
        next();
    }
}

fn next() -> Option<Work> {
    LEFT.with_borrow_mut(|left| left.as_mut()?.pop_front())
}

struct End;

impl Drop for End {
    fn drop(&mut self) {
        // After a panic something may be left, which frees its leases here.
        drop(LEFT.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn work_that_follows_from_other_work_runs_after_it() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let note = |what| {
            let order = order.clone();
            move || order.borrow_mut().push(what)
        };
        let (inner, outer) = (note("inner"), note("outer"));
        in_turn(move || {
            in_turn(inner);
            outer();
        });
        in_turn(note("next"));
        assert_eq!(*order.borrow(), ["outer", "inner", "next"]);
    }
}
