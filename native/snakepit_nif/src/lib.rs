//! Snakepit's data plane in the BEAM. A NIF here decodes to owned values, hands over and returns:
//! a refusal is its return value, everything later a message from a tokio thread.

mod call;
mod channel;
mod codec;
mod credit;
mod dispatcher;
mod events;
mod failure;
mod nifs;
mod output;
mod pool;
mod reply;
mod runtime;
mod sessions;
mod wire;

mod atoms {
    rustler::atoms! {
        __exception__,
        __struct__,
        cancelled,
        chunks,
        closed,
        command,
        created,
        data,
        details,
        done,
        error,
        evicted,
        execution_us,
        expired,
        grpc_status,
        grpc_unavailable,
        internal_error,
        invalid_args,
        invalid_result,
        killed,
        large,
        limit,
        lost,
        max_queue,
        message,
        message_too_large,
        moved,
        nil,
        ok,
        pool,
        pool_saturated,
        pool_stopped,
        python_error,
        queue_timeout,
        queue_us,
        queued,
        r#type = "type",
        reason,
        request_id,
        rpc_error,
        session_lost,
        size,
        snakepit,
        snakepit_end_session,
        snakepit_error = "Elixir.Snakepit.Error",
        snakepit_kill,
        snakepit_session,
        snakepit_work_ended,
        stopped,
        streaming_not_supported,
        timeout,
        traceback,
        unauthenticated,
        unknown,
        unknown_command,
        wait,
        worker_crashed,
        worker_id,
        worker_start_failed,
    }
}

fn load(_env: rustler::Env<'_>, threads: rustler::Term<'_>) -> bool {
    threads.decode().map(runtime::set_threads).is_ok()
}

rustler::init!("Elixir.Snakepit.GRPC.Native", load = load);
