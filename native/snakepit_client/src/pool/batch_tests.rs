#![allow(clippy::unwrap_used, clippy::panic)]
use super::{
    tests::{Name, Waiting, dispatcher, lease_with, queue_with, strict, wait_for},
    *,
};

fn batches(size: usize) -> Vec<BatchCommand> {
    vec![BatchCommand {
        name: "embed".into(),
        size,
    }]
}

/// A call of the command that takes batches.
fn embed(pool: &Dispatcher<Name>) -> AcquireOptions {
    AcquireOptions {
        command: pool.command("embed"),
        pipelines: true,
        ..AcquireOptions::default()
    }
}

fn in_session(pool: &Dispatcher<Name>, id: &str) -> AcquireOptions {
    AcquireOptions {
        session: Some(strict(id)),
        ..embed(pool)
    }
}

fn is_granted(waiting: &mut Waiting) -> bool {
    matches!(waiting.1.try_recv(), Ok(Ok(_)))
}

/// Two calls wait for the only slot: the later one, which could join a batch, gets it only after the other.
fn assert_served_in_order(running: Lease<Name>, mut plain: Waiting, mut later: Waiting) {
    assert!(!is_granted(&mut plain) && !is_granted(&mut later));
    drop(running);
    let plain = plain.1.try_recv().unwrap().unwrap();
    assert!(!is_granted(&mut later));
    drop(plain);
    assert!(is_granted(&mut later));
}

#[test]
fn a_worker_is_filled_up_before_another_one_gets_a_call() {
    let pool = dispatcher(8);
    for name in ["a", "b"] {
        pool.add_batching(name, 1, batches(3));
    }
    let calls: Vec<_> = (0..6).map(|_| lease_with(&pool, embed(&pool))).collect();
    let workers: Vec<_> = calls.iter().map(|lease| *lease.worker()).collect();
    assert_eq!(workers, ["a", "a", "a", "b", "b", "b"]);
    assert!(calls.iter().all(Lease::is_batched));
    let mut waiting = queue_with(&pool, embed(&pool));
    assert!(!is_granted(&mut waiting));
    drop(calls);
    assert!(is_granted(&mut waiting));
}

#[test]
fn the_fullest_batch_gets_the_next_call() {
    let pool = dispatcher(8);
    for name in ["a", "b"] {
        pool.add_batching(name, 1, batches(4));
    }
    let mut on_a: Vec<_> = (0..4).map(|_| lease_with(&pool, embed(&pool))).collect();
    let _on_b: Vec<_> = (0..2).map(|_| lease_with(&pool, embed(&pool))).collect();
    on_a.truncate(1);
    assert_eq!(*lease_with(&pool, embed(&pool)).worker(), "b");
}

#[test]
fn a_worker_takes_as_many_batches_as_it_runs_calls_at_once() {
    let pool = dispatcher(8);
    pool.add_batching("a", 2, batches(3));
    let calls: Vec<_> = (0..6).map(|_| lease_with(&pool, embed(&pool))).collect();
    let mut other = queue_with(&pool, AcquireOptions::default());
    assert!(!is_granted(&mut other));
    drop(calls);
    let plain = other.1.try_recv();
    assert!(plain.is_ok_and(|granted| !granted.unwrap().is_batched()));
}

#[test]
fn a_batch_takes_one_place_of_a_worker() {
    let pool = dispatcher(8);
    pool.add_batching("a", 2, batches(3));
    let _calls: Vec<_> = (0..3).map(|_| lease_with(&pool, embed(&pool))).collect();
    let plain = lease_with(&pool, AcquireOptions::default());
    let mut waiting = queue_with(&pool, embed(&pool));
    assert!(!is_granted(&mut waiting));
    drop(plain);
    assert!(is_granted(&mut waiting));
}

#[test]
fn no_batch_is_filled_up_before_a_call_that_waits_for_a_place() {
    let pool = dispatcher(8);
    pool.add_batching("a", 1, batches(3));
    let running = lease_with(&pool, embed(&pool));
    let plain = queue_with(&pool, AcquireOptions::default());
    let later = queue_with(&pool, embed(&pool));
    assert_served_in_order(running, plain, later);
}

#[test]
fn nor_before_a_call_whose_session_waits_for_its_worker() {
    let pool = dispatcher(8);
    pool.add_batching("a", 1, batches(3));
    drop(lease_with(&pool, in_session(&pool, "s")));
    let running = lease_with(&pool, embed(&pool));
    let plain = AcquireOptions {
        command: CommandId::OTHERS,
        pipelines: false,
        ..in_session(&pool, "s")
    };
    let plain = queue_with(&pool, plain);
    let later = queue_with(&pool, in_session(&pool, "s"));
    assert_served_in_order(running, plain, later);
}

#[test]
fn calls_of_a_session_join_batches_on_its_worker() {
    let pool = dispatcher(8);
    for name in ["a", "b"] {
        pool.add_batching(name, 1, batches(2));
    }
    let first = lease_with(&pool, in_session(&pool, "s"));
    let second = lease_with(&pool, embed(&pool));
    let mut third = queue_with(&pool, in_session(&pool, "s"));
    let mut fourth = queue_with(&pool, in_session(&pool, "s"));
    assert_eq!((*first.worker(), *second.worker()), ("a", "a"));
    assert!(!is_granted(&mut third));
    drop((first, second));
    let (third, fourth) = (third.1.try_recv(), fourth.1.try_recv());
    assert_eq!(*third.unwrap().unwrap().worker(), "a");
    assert_eq!(*fourth.unwrap().unwrap().worker(), "a");
}

#[test]
fn calls_that_came_before_the_first_worker_gather_as_well() {
    let pool = dispatcher(8);
    let mut waiting: Vec<_> = (0..4).map(|_| queue_with(&pool, embed(&pool))).collect();
    pool.add_batching("a", 1, batches(3));
    let leases: Vec<_> = waiting
        .iter_mut()
        .filter_map(|(_, granted)| granted.try_recv().ok())
        .map(Result::unwrap)
        .collect();
    assert_eq!(leases.len(), 3);
    assert!(leases.iter().all(Lease::is_batched));
}

#[test]
fn on_a_worker_without_that_command_a_call_is_like_any_other() {
    let pool = dispatcher(8);
    pool.add_batching("a", 1, batches(3));
    pool.add("b", 1);
    let _on_a: Vec<_> = (0..3).map(|_| lease_with(&pool, embed(&pool))).collect();
    let on_b = lease_with(&pool, embed(&pool));
    assert_eq!((*on_b.worker(), on_b.is_batched()), ("b", false));
    assert!(!is_granted(&mut queue_with(&pool, embed(&pool))));
}

#[test]
fn nothing_is_sent_ahead_behind_a_batch() {
    let pool = dispatcher(8);
    pool.add_batching("a", 1, batches(3));
    let short = Duration::from_micros(10);
    for _ in 0..100 {
        lease_with(&pool, embed(&pool)).done(short);
    }
    let running = lease_with(&pool, embed(&pool));
    let ahead = AcquireOptions {
        pipelines: true,
        ..AcquireOptions::default()
    };
    let mut waiting = queue_with(&pool, ahead);
    assert!(!is_granted(&mut waiting));
    drop(running);
    assert!(is_granted(&mut waiting));
}

#[test]
fn the_queue_timeout_of_a_call_that_waits_for_the_first_worker_alone_begins() {
    let pool = dispatcher(8);
    let (_place, mut first) = queue_with(&pool, in_session(&pool, "s"));
    let (_place, second) = queue_with(
        &pool,
        AcquireOptions {
            session: Some(strict("s")),
            queue_timeout: Some(std::time::Duration::ZERO),
            ..AcquireOptions::default()
        },
    );
    pool.add_batching("a", 1, batches(3));
    let _lease = first.try_recv().unwrap().unwrap();
    let refused = wait_for(second).unwrap();
    assert!(matches!(refused, Err(AcquireError::QueueTimedOut { .. })));
}
