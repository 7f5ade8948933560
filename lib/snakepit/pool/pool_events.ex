defmodule Snakepit.Pool.PoolEvents do
  @moduledoc false
  # What the native library reports to the manager and the workers of a pool, whether these are processes or remote
  # endpoints: events for telemetry, and the time to end the sessions that no call uses.

  alias Snakepit.{Native, Telemetry}

  @doc "Sends `:expire_sessions` to the calling process when sessions may have expired."
  @spec expire_sessions_later(timeout) :: reference | nil
  def expire_sessions_later(:infinity), do: nil

  def expire_sessions_later(ttl) do
    Process.send_after(self(), :expire_sessions, ttl |> div(4) |> max(100) |> min(60_000))
  end

  @doc "Handles a message to the manager of a pool with these options."
  @spec handle_info(term, map, reference) :: any
  def handle_info({:snakepit_session, event, %{ids: ids, worker_id: worker_id}}, options, _native) do
    metadata = %{pool: options.name, worker_id: worker_id}
    for id <- ids, do: Telemetry.session(event, Map.put(metadata, :session_id, id))
  end

  def handle_info({:snakepit_stream_ended, span, stream_end}, _options, _native),
    do: Telemetry.stream_ended(span, stream_end)

  def handle_info({:snakepit_event, event}, options, _native),
    do: Telemetry.python_event(Map.put(event, :pool, options.name))

  def handle_info(:expire_sessions, options, native) do
    Native.pool_expire_sessions(native)
    expire_sessions_later(options.session_ttl)
  end

  # From whoever knows the name of the manager's process, or late.
  def handle_info(_other, _options, _native), do: :ok

  @doc "A command has ended after its call, as the native library reports it to the worker's process."
  @spec handler_exited(map, atom, String.t()) :: any
  def handler_exited(exit, pool, worker_id) do
    Telemetry.call_cancelled(Telemetry.native(exit.after_us), %{
      how: exit.how,
      command: exit.command,
      request_id: exit.request_id,
      pool: pool,
      worker_id: worker_id
    })
  end
end
