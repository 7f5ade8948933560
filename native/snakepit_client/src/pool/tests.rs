#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

pub(super) type Name = &'static str;
pub(super) type Waiting = (Waits<Name>, oneshot::Receiver<Granted<Name>>);

/// Gives up its place when it is dropped.
pub(super) struct Waits<W: Worker>(Ticket<W>);

impl<W: Worker> Drop for Waits<W> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

pub(super) enum Acquired<W: Worker> {
    Now(Lease<W>),
    Queued(Waits<W>, oneshot::Receiver<Granted<W>>),
}

pub(super) fn acquire<W: Worker>(
    pool: &Arc<Dispatcher<W>>,
    options: AcquireOptions,
) -> Result<Acquired<W>, AcquireError> {
    let (sender, granted) = oneshot::channel();
    match pool.submit(options, sender) {
        Submitted::Now(lease, _) => Ok(Acquired::Now(lease)),
        Submitted::Queued(ticket) => Ok(Acquired::Queued(Waits(ticket), granted)),
        Submitted::Refused(error, _) => Err(error),
    }
}

pub(super) fn dispatcher<W: Worker>(max_queue: usize) -> Arc<Dispatcher<W>> {
    Dispatcher::new(limits(max_queue), |_| {})
}

fn limits(max_queue: usize) -> Limits {
    Limits {
        max_queue,
        max_sessions: 1_000,
        pipeline_budget: Duration::from_micros(500),
        size: 2,
        startup_timeout: Duration::from_secs(30),
        remote: false,
        ..Limits::default()
    }
}

fn before(deadline: Instant) -> AcquireOptions {
    AcquireOptions {
        deadline: Some(deadline),
        ..AcquireOptions::default()
    }
}

fn within(queue_timeout: Duration) -> AcquireOptions {
    AcquireOptions {
        queue_timeout: Some(queue_timeout),
        ..AcquireOptions::default()
    }
}

/// The error that a call gets.
fn refused(granted: oneshot::Receiver<Granted<Name>>) -> AcquireError {
    match wait_for(granted).unwrap() {
        Ok(_) => panic!("the call got a lease"),
        Err(error) => error,
    }
}

fn pipelined() -> AcquireOptions {
    AcquireOptions {
        pipelines: true,
        ..AcquireOptions::default()
    }
}

/// A call that came before all others and has not started.
fn requeued(since: Instant) -> AcquireOptions {
    AcquireOptions {
        since,
        requeued: true,
        ..AcquireOptions::default()
    }
}

pub(super) fn lease_with(
    dispatcher: &Arc<Dispatcher<Name>>,
    options: AcquireOptions,
) -> Lease<Name> {
    match acquire(dispatcher, options) {
        Ok(Acquired::Now(lease)) => lease,
        Ok(Acquired::Queued(..)) => panic!("the call waits"),
        Err(error) => panic!("{error:?}"),
    }
}

fn lease(dispatcher: &Arc<Dispatcher<Name>>) -> Lease<Name> {
    lease_with(dispatcher, AcquireOptions::default())
}

pub(super) fn queue_with(dispatcher: &Arc<Dispatcher<Name>>, options: AcquireOptions) -> Waiting {
    match acquire(dispatcher, options) {
        Ok(Acquired::Queued(ticket, granted)) => (ticket, granted),
        Ok(Acquired::Now(_)) => panic!("a worker was free"),
        Err(error) => panic!("{error:?}"),
    }
}

fn queue(dispatcher: &Arc<Dispatcher<Name>>) -> Waiting {
    queue_with(dispatcher, AcquireOptions::default())
}

fn refusal(dispatcher: &Arc<Dispatcher<Name>>) -> Option<AcquireError> {
    acquire(dispatcher, AcquireOptions::default()).err()
}

pub(super) fn strict(id: &str) -> Session {
    Session {
        id: id.into(),
        strict: true,
    }
}

pub(super) fn prefer(id: &str) -> Session {
    Session {
        id: id.into(),
        strict: false,
    }
}

fn unavailable(why: &str) -> Unavailable {
    Unavailable {
        why: why.into(),
        no_grpc: false,
    }
}

#[test]
fn a_cancelled_call_may_wait_for_an_earlier_one_that_was_not_cancelled() {
    let dispatcher = dispatcher(0);
    dispatcher.add("a", 3);
    let (mut first, mut second) = (lease(&dispatcher), lease(&dispatcher));
    first.set_cancelled();
    // The one that runs came later.
    assert!(!first.may_wait());
    let third = lease(&dispatcher);
    second.set_cancelled();
    second.set_cancelled();
    assert!(second.may_wait());
    drop(third);
    assert!(!second.may_wait());
    drop(second);
    drop(first);
    assert!(!lease(&dispatcher).may_wait());
}

#[test]
fn the_least_loaded_worker_is_leased_and_of_idle_ones_the_one_used_last() {
    let pool = dispatcher(0);
    pool.add("a", 2);
    pool.add("b", 2);
    let [first, second] = [(); 2].map(|()| lease(&pool));
    assert_eq!((*first.worker(), *second.worker()), ("a", "b"));
    drop(second);
    for _ in 0..3 {
        assert_eq!(*lease(&pool).worker(), "b");
    }
    drop(first);
    assert_eq!(*lease(&pool).worker(), "b");
    let busy = lease(&pool);
    assert_eq!((*busy.worker(), *lease(&pool).worker()), ("b", "a"));
}

#[test]
fn of_equally_busy_workers_the_one_is_leased_that_was_leased_first() {
    let pool = dispatcher(0);
    pool.add("a", 2);
    pool.add("b", 2);
    let leases = [(); 4].map(|()| lease(&pool));
    let names = leases.each_ref().map(|lease| *lease.worker());
    assert_eq!(names, ["a", "b", "a", "b"]);
}

#[test]
fn a_full_queue_refuses_calls_and_names_its_limit() {
    let pool = dispatcher(1);
    pool.add("a", 1);
    let _running = lease(&pool);
    let _waiting = queue(&pool);
    assert_eq!(
        refusal(&pool),
        Some(AcquireError::Saturated { max_queue: 1 })
    );
}

#[test]
fn a_released_slot_goes_to_the_call_that_has_waited_longest() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    let running = lease(&pool);
    let (_first, mut first_rx) = queue(&pool);
    let (_second, mut second_rx) = queue(&pool);
    drop(running);
    let granted = first_rx.try_recv().unwrap().unwrap();
    assert!(second_rx.try_recv().is_err());
    drop(granted);
    assert!(second_rx.try_recv().unwrap().is_ok());
}

#[test]
fn a_call_that_gives_up_leaves_the_queue_and_gets_no_lease() {
    let pool = dispatcher(1);
    pool.add("a", 1);
    let running = lease(&pool);
    let (ticket, mut rx) = queue(&pool);
    drop(ticket);
    assert_eq!(pool.snapshot().queued, 0);
    drop(running);
    assert_eq!(rx.try_recv().unwrap().err(), Some(AcquireError::GivenUp));
    assert_eq!(pool.snapshot().workers[0].1, 0);
}

#[test]
fn a_late_call_is_refused_and_the_next_one_served() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    let running = lease(&pool);
    let (_late, late) = queue_with(&pool, before(Instant::now()));
    let (_patient, mut patient_rx) = queue(&pool);
    drop(running);
    assert_eq!(refused(late), AcquireError::TimedOut);
    assert!(patient_rx.try_recv().unwrap().is_ok());
}

#[test]
fn calls_are_refused_when_their_deadlines_or_queue_timeouts_pass() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    let _running = lease(&pool);
    let soon = Duration::from_millis(20);
    let (_patient, mut patient) = queue(&pool);
    let (_limited, limited) = queue_with(&pool, within(soon));
    let (_both, both) = queue_with(
        &pool,
        AcquireOptions {
            queue_timeout: Some(Duration::from_secs(3600)),
            ..before(Instant::now() + soon)
        },
    );
    let has_workers = true;
    assert_eq!(
        refused(limited),
        AcquireError::QueueTimedOut { has_workers }
    );
    assert_eq!(refused(both), AcquireError::TimedOut);
    assert!(patient.try_recv().is_err());
    assert_eq!(pool.snapshot().queued, 1);
}

#[test]
fn a_lease_that_is_not_received_frees_its_slot() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    let running = lease(&pool);
    let (_ticket, rx) = queue(&pool);
    drop(rx);
    drop(running);
    assert_eq!(*lease(&pool).worker(), "a");
}

#[test]
fn a_draining_worker_gets_no_new_calls_and_a_removed_one_none_at_all() {
    let pool = dispatcher(8);
    let a = pool.add("a", 2);
    let running = lease(&pool);
    pool.drain(a);
    let (_ticket, mut rx) = queue(&pool);
    assert!(rx.try_recv().is_err());
    assert!(pool.remove(a));
    assert!(!pool.remove(a));
    drop(running);
    pool.add("b", 1);
    assert_eq!(*rx.try_recv().unwrap().unwrap().worker(), "b");
}

#[test]
fn a_paused_worker_gets_calls_again_with_its_next_connection_and_keeps_its_calls() {
    let pool = dispatcher(8);
    let a = pool.add("a", 2);
    let running = lease(&pool);
    running.pause();
    let (_ticket, mut rx) = queue(&pool);
    assert!(rx.try_recv().is_err());
    assert!(pool.resume(a, "a again"));
    assert_eq!(*rx.try_recv().unwrap().unwrap().worker(), "a again");
    assert_eq!(*running.worker(), "a");
    assert!(!pool.resume(a, "not paused"));
}

#[test]
fn a_call_on_an_earlier_connection_does_not_pause_the_present_one() {
    let pool = dispatcher(8);
    let a = pool.add("a", 2);
    let old = lease(&pool);
    pool.pause(a);
    pool.resume(a, "b");
    old.pause();
    assert_eq!(*lease(&pool).worker(), "b");
}

#[test]
fn a_draining_worker_is_not_paused_or_resumed() {
    let pool = dispatcher(8);
    let a = pool.add("a", 2);
    pool.drain(a);
    pool.pause(a);
    assert!(!pool.resume(a, "b"));
}

#[test]
fn a_retired_worker_is_removed_at_once() {
    let pool = dispatcher(8);
    pool.add("a", 2);
    let [first, second] = [(); 2].map(|()| lease(&pool));
    assert!(first.retire());
    assert!(pool.snapshot().workers.is_empty());
    assert!(!second.retire());
}

#[test]
fn a_worker_is_removed_with_its_connection_and_stays_with_its_next_one() {
    let pool = dispatcher(8);
    let a = pool.add("a", 4);
    let [paused, resumed] = [(); 2].map(|()| lease(&pool));
    pool.pause(a);
    paused.retire_lost();
    assert!(pool.resume(a, "b"));
    resumed.retire_lost();
    let present = lease(&pool);
    assert_eq!(*present.worker(), "b");
    present.retire_lost();
    assert!(pool.snapshot().workers.is_empty());
}

#[test]
fn calls_wait_while_a_worker_may_still_start_and_get_the_reason_once_all_have_failed() {
    let pool = dispatcher(8);
    let (_ticket, mut rx) = queue(&pool);
    pool.set_failed(1, unavailable("no port"));
    assert!(rx.try_recv().is_err());
    drop(queue(&pool));
    pool.set_failed(2, unavailable("no python"));
    let expected = AcquireError::Unavailable(unavailable("no python").into());
    assert_eq!(rx.try_recv().unwrap().err(), Some(expected.clone()));
    assert_eq!(refusal(&pool), Some(expected));
    let a = pool.add("a", 1);
    pool.set_failed(1, unavailable("the other one"));
    pool.remove(a);
    drop(queue(&pool));
}

#[test]
fn a_queue_timeout_begins_once_the_pool_has_had_a_worker() {
    let pool = dispatcher(8);
    let (_first, mut first) = queue_with(&pool, within(Duration::ZERO));
    let (_second, mut second) = queue_with(&pool, within(Duration::ZERO));
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    let a = pool.add("a", 1);
    let running = first.try_recv().unwrap().unwrap();
    assert_eq!(*running.worker(), "a");
    let has_workers = true;
    assert_eq!(refused(second), AcquireError::QueueTimedOut { has_workers });
    pool.remove(a);
    let (_late, late) = queue_with(&pool, within(Duration::ZERO));
    let has_workers = false;
    assert_eq!(refused(late), AcquireError::QueueTimedOut { has_workers });
}

#[test]
fn a_call_that_waits_for_the_first_worker_past_its_deadline_learns_how_far_the_pool_is() {
    let pool = dispatcher(8);
    pool.set_failed(1, unavailable("no port"));
    let soon = Instant::now() + Duration::from_millis(20);
    let (_call, call) = queue_with(&pool, before(soon));
    let AcquireError::NotReady(startup) = refused(call) else {
        panic!("another error");
    };
    assert_eq!((startup.starting, startup.size), (1, 2));
    assert_eq!(startup.startup_timeout, Duration::from_secs(30));
    assert_eq!(startup.failed.unwrap().why, "no port");
}

/// Gives its lease back at once.
struct Unwilling(mpsc::Sender<()>);

impl QueuedCall<Name> for Unwilling {
    fn queued(&self, _ticket: Ticket<Name>) {}

    fn granted(self: Box<Self>, granted: Granted<Name>) {
        granted.unwrap().give_back_unused();
        self.0.send(()).unwrap();
    }
}

#[test]
fn a_long_queue_of_calls_that_give_their_leases_back_does_not_overflow_the_stack() {
    const CALLS: usize = 20_000;
    let pool = dispatcher(CALLS);
    pool.add("a", 1);
    let running = lease(&pool);
    let (tx, rx) = mpsc::channel();
    for _ in 0..CALLS {
        pool.submit(AcquireOptions::default(), Unwilling(tx.clone()));
    }
    drop(running);
    assert_eq!(rx.try_iter().count(), CALLS);
}

#[test]
fn that_a_removed_worker_had_answered_is_kept_until_the_first_question() {
    let pool = dispatcher(8);
    let keys = ["a", "b", "c"].map(|worker| pool.add(worker, 1));
    let [answered, retired, unused] = [(); 3].map(|()| lease(&pool));
    drop(answered);
    retired.retire();
    unused.give_back_unused();
    assert_eq!(keys.map(|key| pool.remove(key)), [true, false, true]);
    assert_eq!(keys.map(|key| pool.had_answered(key)), [true, false, false]);
    assert!(!pool.had_answered(keys[0]));
}

#[test]
fn closing_refuses_waiting_and_later_calls() {
    let pool = dispatcher(8);
    let (_ticket, mut rx) = queue(&pool);
    pool.close(AcquireError::Closed);
    assert_eq!(rx.try_recv().unwrap().err(), Some(AcquireError::Closed));
    assert_eq!(refusal(&pool), Some(AcquireError::Closed));
    let requeued = acquire(&pool, requeued(Instant::now()));
    assert_eq!(requeued.err(), Some(AcquireError::Closed));
}

#[test]
fn a_closed_pool_grants_no_lease_and_gives_its_first_reason() {
    let pool = dispatcher(8);
    pool.add("a", 2);
    let running = lease(&pool);
    let moved = AcquireError::Unavailable(unavailable("moved").into());
    pool.close(moved.clone());
    pool.close(AcquireError::Closed);
    pool.add("b", 1);
    assert_eq!(refusal(&pool), Some(moved));
    drop(running);
    assert!(pool.snapshot().workers.iter().all(|worker| worker.1 == 0));
}

/// What a call gets, if it has not given up its place in the queue.
pub(super) fn answer<W: Worker>(acquired: Acquired<W>) -> Option<Granted<W>> {
    let (_ticket, granted) = match acquired {
        Acquired::Now(lease) => return Some(Ok(lease)),
        Acquired::Queued(ticket, granted) => (ticket, granted),
    };
    wait_for(granted)
}

pub(super) fn wait_for<T>(receiver: oneshot::Receiver<T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let waiting = async { tokio::time::timeout(Duration::from_secs(60), receiver).await };
    runtime.block_on(waiting).unwrap().ok()
}

/// Callers take slots, free them and give up, while workers are added and removed: no slot is leased twice or lost,
/// and every call that keeps its ticket gets an answer.
#[test]
fn slots_are_neither_lost_nor_leased_twice_in_a_race() {
    const CALLERS: usize = 8;
    const ROUNDS: usize = 2_000;
    let pool = dispatcher(CALLERS);
    let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    for count in &counts {
        pool.add(count.clone(), 2);
    }
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let acquired = acquire(pool, AcquireOptions::default()).unwrap();
                    if (round + caller) % 5 == 0 {
                        drop(acquired);
                        continue;
                    }
                    let lease = answer(acquired).unwrap().unwrap();
                    assert!(lease.worker().fetch_add(1, Ordering::SeqCst) < 2);
                    lease.worker().fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                let extra = pool.add(Arc::new(AtomicUsize::new(0)), 1);
                pool.drain(extra);
                thread::yield_now();
                pool.remove(extra);
            }
        });
    });
    let end = pool.snapshot();
    assert_eq!(end.queued, 0);
    assert!(end.workers.iter().all(|(_, in_flight, _)| *in_flight == 0));
}

fn short_lease(dispatcher: &Arc<Dispatcher<Name>>) -> Lease<Name> {
    lease_with(dispatcher, pipelined())
}

/// A call of another command than `pipelined` is of.
fn other(pool: &Dispatcher<Name>) -> AcquireOptions {
    AcquireOptions {
        command: pool.command("other"),
        ..pipelined()
    }
}

/// Has the pool run commands of this length.
fn train(pool: &Arc<Dispatcher<Name>>, time: Duration) {
    for _ in 0..300 {
        short_lease(pool).done(time);
    }
}

#[test]
fn nothing_is_sent_ahead_behind_a_command_that_has_never_ended() {
    let pool = dispatcher(1);
    pool.add("a", 1);
    let first = short_lease(&pool);
    let (_ticket, mut granted) = queue_with(&pool, pipelined());
    assert!(granted.try_recv().is_err());
    first.done(Duration::from_micros(10));
    assert!(granted.try_recv().is_ok());
}

#[test]
fn short_calls_are_sent_ahead_up_to_the_budget() {
    let pool = dispatcher(1);
    pool.add("a", 1);
    train(&pool, Duration::from_micros(100));
    let sent: Vec<_> = (0..5).map(|_| short_lease(&pool)).collect();
    let (_ticket, mut granted) = queue_with(&pool, pipelined());
    assert!(granted.try_recv().is_err());
    drop(sent);
    assert!(granted.try_recv().is_ok());
}

#[test]
fn a_call_is_sent_ahead_only_where_no_worker_is_free() {
    let pool = dispatcher(1);
    pool.add("a", 1);
    train(&pool, Duration::from_micros(10));
    pool.add("b", 2);
    let names: Vec<_> = (0..3).map(|_| short_lease(&pool)).collect();
    let names: Vec<_> = names.iter().map(|lease| *lease.worker()).collect();
    assert_eq!(names, ["a", "b", "b"]);
}

/// Two workers that share a CPU, of a pool that has run commands of this length on the first.
fn sharing(time: Duration, change: impl FnOnce(&mut Limits)) -> Arc<Dispatcher<Name>> {
    let mut limits = Limits {
        cpus: Some(1),
        ..limits(0)
    };
    change(&mut limits);
    let pool = Dispatcher::new(limits, |_| {});
    pool.add("a", 1);
    train(&pool, time);
    pool.add("b", 1);
    pool
}

/// The worker of a call that comes while the first worker runs one.
fn second(pool: &Arc<Dispatcher<Name>>, options: AcquireOptions) -> Name {
    let first = short_lease(pool);
    assert_eq!(*first.worker(), "a");
    lease_with(pool, options).worker()
}

const SHORT: Duration = Duration::from_micros(10);

#[test]
fn while_all_cpus_are_busy_a_short_call_is_sent_behind_others_rather_than_to_an_idle_worker() {
    let pool = sharing(SHORT, |_| {});
    let leases: Vec<_> = (0..11).map(|_| short_lease(&pool)).collect();
    let names: Vec<_> = leases.iter().map(|lease| *lease.worker()).collect();
    // A fifth of the budget of 500 us.
    assert_eq!(names[..10], ["a"; 10]);
    assert_eq!(names[10], "b");
}

#[test]
fn idle_workers_are_taken_while_a_cpu_may_be_idle_or_calls_are_not_short() {
    let two_cpus = sharing(SHORT, |limits| limits.cpus = Some(2));
    assert_eq!(second(&two_cpus, pipelined()), "b");
    let elsewhere = sharing(SHORT, |limits| limits.cpus = None);
    assert_eq!(second(&elsewhere, pipelined()), "b");
    let none_ahead = sharing(SHORT, |limits| limits.pipeline_budget = Duration::ZERO);
    assert_eq!(second(&none_ahead, pipelined()), "b");
    let longer = sharing(Duration::from_micros(200), |_| {});
    assert_eq!(second(&longer, pipelined()), "b");
    let unknown = sharing(SHORT, |_| {});
    assert_eq!(second(&unknown, other(&unknown)), "b");
}

#[test]
fn idle_workers_are_taken_where_one_call_of_many_is_long() {
    let pool = sharing(SHORT, |_| {});
    for _ in 0..3 {
        short_lease(&pool).done(Duration::from_millis(20));
        for _ in 0..100 {
            short_lease(&pool).done(SHORT);
        }
    }
    let running = short_lease(&pool);
    assert_ne!(short_lease(&pool).worker(), running.worker());
}

#[test]
fn a_call_with_a_slot_of_its_own_or_a_session_takes_an_idle_worker_and_so_does_one_after_a_stall() {
    let pool = || sharing(SHORT, |_| {});
    assert_eq!(second(&pool(), pipelined()), "a");
    assert_eq!(second(&pool(), AcquireOptions::default()), "b");
    let in_session = AcquireOptions {
        session: Some(prefer("s")),
        ..pipelined()
    };
    assert_eq!(second(&pool(), in_session), "b");
    let pool = pool();
    let running = short_lease(&pool);
    running.stall();
    assert_eq!(*short_lease(&pool).worker(), "b");
}

#[test]
fn a_worker_is_sent_calls_ahead_by_the_commands_that_it_has() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    lease_with(&pool, other(&pool)).done(Duration::from_millis(20));
    train(&pool, SHORT);
    pool.add("b", 1);
    let on_a = short_lease(&pool);
    short_lease(&pool).done(SHORT);
    drop(on_a);
    let long = lease_with(&pool, other(&pool));
    let short: Vec<_> = (0..3).map(|_| short_lease(&pool)).collect();
    assert!(short.iter().all(|lease| lease.worker() != long.worker()));
    // It waits behind short ones, and nothing behind it.
    let _second = lease_with(&pool, other(&pool));
    let (_ticket, mut granted) = queue_with(&pool, pipelined());
    assert!(granted.try_recv().is_err());
    drop(long);
    assert!(granted.try_recv().is_ok());
}

#[test]
fn nothing_is_sent_ahead_to_a_connection_on_which_nothing_has_ended() {
    let pool = dispatcher(8);
    let a = pool.add("a", 1);
    train(&pool, SHORT);
    let running = short_lease(&pool);
    pool.pause(a);
    pool.resume(a, "a again");
    let (_first, mut first) = queue_with(&pool, pipelined());
    pool.add("b", 1);
    let first = first.try_recv().unwrap().unwrap();
    let (_second, mut second) = queue_with(&pool, pipelined());
    assert!(second.try_recv().is_err());
    first.done(SHORT);
    assert_eq!(*second.try_recv().unwrap().unwrap().worker(), "b");
    drop(running);
}

#[test]
fn a_refused_call_says_nothing_about_what_its_command_takes() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    lease_with(&pool, other(&pool)).done(Duration::ZERO);
    let running = lease_with(&pool, other(&pool));
    let (_ticket, mut granted) = queue_with(&pool, pipelined());
    assert!(granted.try_recv().is_err());
    drop(running);
}

#[test]
fn nothing_is_sent_ahead_behind_long_commands() {
    let pool = dispatcher(1);
    pool.add("a", 1);
    train(&pool, Duration::from_micros(10));
    short_lease(&pool).done(Duration::from_secs(1));
    let running = short_lease(&pool);
    let (_ticket, mut granted) = queue_with(&pool, pipelined());
    assert!(granted.try_recv().is_err());
    drop(running);
}

#[test]
fn nothing_is_sent_ahead_behind_a_call_with_a_slot_of_its_own() {
    let pool = dispatcher(1);
    pool.add("a", 1);
    train(&pool, Duration::from_micros(10));
    let _stream = lease(&pool);
    let (_ticket, mut granted) = queue_with(&pool, pipelined());
    assert!(granted.try_recv().is_err());
}

#[test]
fn a_call_that_needs_a_slot_of_its_own_is_not_overtaken() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    train(&pool, Duration::from_micros(10));
    let running = short_lease(&pool);
    let ahead = short_lease(&pool);
    let (_stream, mut stream) = queue(&pool);
    let (_short, mut short) = queue_with(&pool, pipelined());
    running.done(Duration::from_micros(10));
    assert!(stream.try_recv().is_err());
    ahead.done(Duration::from_micros(10));
    let stream = stream.try_recv().unwrap().unwrap();
    assert!(short.try_recv().is_err());
    drop(stream);
    assert!(short.try_recv().is_ok());
}

/// A call that waits for the worker of its session, and needs a slot of its own there.
fn in_session() -> AcquireOptions {
    AcquireOptions {
        session: Some(strict("s")),
        ..AcquireOptions::default()
    }
}

#[test]
fn nor_is_one_that_needs_it_of_the_worker_of_its_session() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    train(&pool, SHORT);
    drop(lease_with(&pool, in_session()));
    let running = short_lease(&pool);
    let (_stream, mut stream) = queue_with(&pool, in_session());
    let (_short, mut short) = queue_with(&pool, pipelined());
    running.done(SHORT);
    assert!(short.try_recv().is_err());
    drop(stream.try_recv().unwrap().unwrap());
    assert!(short.try_recv().is_ok());
}

#[test]
fn a_worker_that_drains_its_sessions_serves_them_while_a_call_waits_for_a_slot_of_another() {
    let pool = dispatcher(8);
    let a = pool.add("a", 1);
    let on_a = lease_with(&pool, in_session());
    pool.add("b", 1);
    train(&pool, SHORT);
    let _on_b = short_lease(&pool);
    pool.drain_sessions(a);
    let (_stream, mut stream) = queue(&pool);
    let (_pinned, mut pinned) = queue_with(&pool, in_session());
    drop(on_a);
    assert_eq!(*pinned.try_recv().unwrap().unwrap().worker(), "a");
    assert!(stream.try_recv().is_err());
}

#[test]
fn a_stalled_worker_gets_nothing_ahead_until_a_command_has_ended() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    train(&pool, Duration::from_micros(10));
    let running = short_lease(&pool);
    running.stall();
    let (_ticket, mut granted) = queue_with(&pool, pipelined());
    assert!(granted.try_recv().is_err());
    running.done(Duration::from_micros(10));
    assert!(granted.try_recv().is_ok());
    let _ahead = short_lease(&pool);
}

#[test]
fn requeued_calls_go_to_the_front_of_the_queue_in_the_order_in_which_they_were_made() {
    let pool = dispatcher(1);
    pool.add("a", 1);
    let running = lease(&pool);
    let [one, two] = [(); 2].map(|()| Instant::now());
    let (_later, mut later) = queue(&pool);
    let (_second, mut second) = queue_with(&pool, requeued(two));
    let (_first, mut first) = queue_with(&pool, requeued(one));
    drop(running);
    drop(first.try_recv().unwrap().unwrap());
    drop(second.try_recv().unwrap().unwrap());
    assert!(later.try_recv().is_ok());
}

fn made(since: Instant, priority: Priority) -> AcquireOptions {
    AcquireOptions {
        since,
        priority,
        ..AcquireOptions::default()
    }
}

/// The order in which calls are served that were made so many milliseconds ago.
fn order(calls: &[(u64, Priority)]) -> Vec<(u64, Priority)> {
    let pool = dispatcher(calls.len());
    pool.add("a", 1);
    let mut running = Some(lease(&pool));
    let now = Instant::now();
    let mut waiting: Vec<_> = calls
        .iter()
        .map(|(ago, priority)| {
            let since = now.checked_sub(Duration::from_millis(*ago)).unwrap();
            queue_with(&pool, made(since, *priority))
        })
        .collect();
    let mut served = Vec::new();
    while served.len() < calls.len() {
        drop(running.take());
        let granted = waiting.iter_mut().map(|(_, granted)| granted.try_recv());
        let (at, lease) = granted
            .enumerate()
            .find_map(|(at, granted)| Some((at, granted.ok()?.unwrap())))
            .unwrap();
        running = Some(lease);
        served.push(calls[at]);
    }
    served
}

#[test]
fn calls_of_a_higher_priority_go_first() {
    use Priority::{High, Low, Normal};
    let served = order(&[(300, Low), (200, Normal), (100, High), (0, High)]);
    assert_eq!(served, [(100, High), (0, High), (200, Normal), (300, Low)]);
}

#[test]
fn a_call_is_not_overtaken_by_calls_that_come_a_second_later_for_each_level_of_priority() {
    use Priority::{High, Low, Normal};
    let served = order(&[
        (2_500, Low),
        (1_800, Normal),
        (0, Normal),
        (300, High),
        (600, High),
    ]);
    // The first is overtaken by what came up to 0.7 and 1.9 s after it, and not by what came 2.2 s after it.
    let expected = [
        (1_800, Normal),
        (600, High),
        (2_500, Low),
        (300, High),
        (0, Normal),
    ];
    assert_eq!(served, expected);
}

#[test]
fn a_short_call_of_a_higher_priority_is_sent_ahead_of_one_that_waits_for_a_slot_of_its_own() {
    let pool = dispatcher(8);
    pool.add("a", 1);
    train(&pool, Duration::from_micros(10));
    let _running = short_lease(&pool);
    let since = Instant::now();
    let (_stream, mut stream) = queue_with(&pool, made(since, Priority::Normal));
    let urgent = AcquireOptions {
        pipelines: true,
        ..made(since, Priority::High)
    };
    let _urgent = lease_with(&pool, urgent);
    assert!(stream.try_recv().is_err());
}

#[test]
fn a_call_that_has_not_started_has_waited_only_since_the_pool_was_ready() {
    let pool = dispatcher(8);
    let since = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    pool.add("a", 1);
    let busy = lease(&pool);
    let (_place, mut granted) = queue_with(
        &pool,
        AcquireOptions {
            queue_timeout: Some(Duration::from_secs(59)),
            ..requeued(since)
        },
    );
    drop(busy);
    assert!(granted.try_recv().unwrap().is_ok());
}
