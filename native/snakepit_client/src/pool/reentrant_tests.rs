#![allow(clippy::unwrap_used, clippy::panic)]
//! Calls that are made by the tools of others, which wait for them.
use super::{
    tests::{Acquired, Name, acquire, dispatcher, lease_with, queue_with, strict},
    *,
};

fn nested(held: &[HeldPlace]) -> AcquireOptions {
    AcquireOptions {
        held: held.to_vec(),
        ..AcquireOptions::default()
    }
}

fn in_session(held: &[HeldPlace], id: &str) -> AcquireOptions {
    AcquireOptions {
        session: Some(strict(id)),
        ..nested(held)
    }
}

fn place(lease: &Lease<Name>, call_id: u64) -> HeldPlace {
    HeldPlace {
        worker: lease.key(),
        call_id,
    }
}

fn refused(pool: &Arc<Dispatcher<Name>>, options: AcquireOptions) -> bool {
    matches!(acquire(pool, options), Err(AcquireError::Reentrant))
}

#[test]
fn a_call_of_a_tool_is_refused_when_its_own_callers_have_all_places() {
    let pool = dispatcher(8);
    pool.add("one", 1);
    pool.add("two", 1);
    let first = lease_with(&pool, AcquireOptions::default());
    let mut held = vec![place(&first, 1)];
    // Nesting works as deep as there are places.
    let second = lease_with(&pool, nested(&held));
    held.push(place(&second, 2));
    assert!(refused(&pool, nested(&held)));
    // Another call waits.
    let (_place, _granted) = queue_with(&pool, AcquireOptions::default());
}

#[test]
fn a_call_of_a_tool_waits_while_others_have_places() {
    let pool = dispatcher(8);
    pool.add("one", 1);
    pool.add("two", 1);
    let first = lease_with(&pool, AcquireOptions::default());
    let other = lease_with(&pool, AcquireOptions::default());
    let (_place, mut granted) = queue_with(&pool, nested(&[place(&first, 1)]));
    drop(other);
    assert!(granted.try_recv().unwrap().is_ok());
}

#[test]
fn calls_of_tools_that_would_wait_for_each_other_are_refused() {
    let pool = dispatcher(8);
    pool.add("one", 1);
    pool.add("two", 1);
    let first = lease_with(&pool, AcquireOptions::default());
    let second = lease_with(&pool, AcquireOptions::default());
    let (waits, _granted) = queue_with(&pool, nested(&[place(&first, 1)]));
    // A second ask of the first call blocks no further place.
    let (_waits, _granted) = queue_with(&pool, nested(&[place(&first, 1)]));
    assert!(refused(&pool, nested(&[place(&second, 2)])));
    drop((waits, _waits));
    let (_waits, _granted) = queue_with(&pool, nested(&[place(&second, 2)]));
}

#[test]
fn a_worker_with_several_places_is_blocked_by_as_many_calls() {
    let pool = dispatcher(8);
    pool.set_size(1);
    pool.add("one", 2);
    let first = lease_with(&pool, AcquireOptions::default());
    let second = lease_with(&pool, AcquireOptions::default());
    let (_waits, _granted) = queue_with(&pool, nested(&[place(&first, 1)]));
    assert!(refused(
        &pool,
        nested(&[place(&first, 1), place(&second, 2)])
    ));
}

#[test]
fn a_call_waits_for_a_worker_that_is_still_starting() {
    let pool = dispatcher(8);
    pool.add("one", 1);
    let first = lease_with(&pool, AcquireOptions::default());
    // The pool is to have two.
    let (_waits, mut granted) = queue_with(&pool, nested(&[place(&first, 1)]));
    pool.add("two", 1);
    assert!(granted.try_recv().unwrap().is_ok());
}

#[test]
fn a_call_in_the_session_of_its_own_caller_is_refused() {
    let pool = dispatcher(8);
    pool.add("one", 1);
    pool.add("two", 1);
    let first = lease_with(&pool, in_session(&[], "s"));
    let held = [place(&first, 1)];
    assert!(refused(&pool, in_session(&held, "s")));
    assert!(matches!(
        acquire(&pool, in_session(&held, "another")),
        Ok(Acquired::Now(_))
    ));
}

#[test]
fn a_worker_that_is_about_to_go_is_no_place_for_a_call_of_a_tool() {
    let pool = dispatcher(8);
    pool.set_size(1);
    let old = pool.add("old", 1);
    let _busy = lease_with(&pool, AcquireOptions::default());
    pool.drain(old);
    pool.add("new", 1);
    let first = lease_with(&pool, AcquireOptions::default());
    assert!(refused(&pool, nested(&[place(&first, 1)])));
}

#[test]
fn a_call_of_a_tool_is_refused_when_the_worker_goes_for_which_it_waits() {
    let pool = dispatcher(8);
    pool.add("one", 1);
    let two = pool.add("two", 1);
    let first = lease_with(&pool, AcquireOptions::default());
    assert_eq!(*first.worker(), "one");
    let _other = lease_with(&pool, AcquireOptions::default());
    let (_waits, mut granted) = queue_with(&pool, nested(&[place(&first, 1)]));
    pool.set_size(1);
    assert!(granted.try_recv().is_err());
    assert!(pool.remove(two));
    assert!(matches!(
        granted.try_recv(),
        Ok(Err(AcquireError::Reentrant))
    ));
}
