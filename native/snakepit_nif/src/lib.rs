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
mod wire;

mod atoms {
    rustler::atoms! {
        __exception__,
        __struct__,
        cancelled,
        chunks,
        closed,
        killed,
        command,
        details,
        data,
        done,
        error,
        execution_us,
        grpc_status,
        grpc_unavailable,
        internal_error,
        invalid_args,
        invalid_result,
        large,
        limit,
        max_queue,
        message,
        message_too_large,
        nil,
        ok,
        pool,
        pool_saturated,
        pool_stopped,
        python_error,
        queue_us,
        queue_timeout,
        queued,
        reason,
        request_id,
        rpc_error,
        size,
        snakepit,
        snakepit_error = "Elixir.Snakepit.Error",
        snakepit_kill,
        snakepit_work_ended,
        stopped,
        streaming_not_supported,
        timeout,
        traceback,
        r#type = "type",
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
