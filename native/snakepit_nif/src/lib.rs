//! Snakepit's data plane in the BEAM: the NIFs, over `snakepit_client`.
//!
//! A NIF decodes its arguments to owned values, hands over and returns. What fails at once is its return value,
//! everything later a message from a thread of tokio.

// Memory is often freed by another thread than the one that allocated it, and large messages come and go. The C
// library's allocator pays for each large one with page faults, and for small ones with locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod allowance;
mod asks;
mod call;
mod codec;
mod conversation;
mod events;
mod failure_term;
mod map;
mod message_env;
mod nifs;
mod numbers;
mod pool;
mod progress;
mod progress_listener;
mod reply;
mod runtime;
mod send_guard;
mod terms;

mod atoms {
    rustler::atoms! {
        __struct__,
        announced,
        busy,
        cancelled,
        cause,
        chunks,
        closed,
        code,
        command_error,
        created,
        data,
        errors,
        done,
        ended,
        error,
        evicted,
        expired,
        file,
        flush,
        frames,
        full,
        function,
        grpc_status,
        grpc_unavailable,
        infinity,
        input_closed,
        internal_error,
        invalid_args,
        invalid_result,
        killed,
        large,
        limit,
        line,
        lost,
        max_queue,
        message,
        message_too_large,
        more,
        moved,
        named,
        nan,
        neg_infinity,
        nil,
        not_ready,
        notes,
        ok,
        pool_saturated,
        pool_stopped,
        python_error,
        queue_timeout,
        queued,
        read,
        reentrant_call,
        rpc_error,
        session_lost,
        size,
        snakepit,
        snakepit_asks,
        snakepit_asks_end,
        snakepit_asks_withdrawn,
        snakepit_drained,
        snakepit_read,
        snakepit_served,
        snakepit_end_session,
        snakepit_event,
        snakepit_failing,
        snakepit_input,
        snakepit_kill,
        snakepit_refused,
        snakepit_progress,
        snakepit_session,
        snakepit_stream_ended,
        snakepit_handler_exited,
        source,
        started,
        stop,
        stopped,
        streaming_not_supported,
        r#struct = "struct",
        timeout,
        too_large,
        traceback,
        r#type = "type",
        unauthenticated,
        unknown,
        unknown_command,
        wait,
        worker_crashed,
        worker_start_failed,
    }
}

fn load(_env: rustler::Env<'_>, threads: rustler::Term<'_>) -> bool {
    threads.decode().map(runtime::set_threads).is_ok()
}

rustler::init!("Elixir.Snakepit.Native", load = load);
