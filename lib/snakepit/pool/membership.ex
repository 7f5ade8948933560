defmodule Snakepit.Pool.Membership do
  @moduledoc false
  # A worker's place in its pool, from the moment it is ready until it leaves: the same for both kinds
  # of worker, whose state has `:id`, `:pool`, `:manager`, `:options`, `:process`, `:key`, `:timer`,
  # `:check`, `:why`, `:leaving` and `:ended`.
  #
  # A worker leaves in steps, whether its pool stops or it has said that it leaves: it gets no new
  # calls; once those it has are over, or `:drain_timeout` comes, it gets SIGTERM; and SIGKILL at
  # `:exit_timeout`. One of our own that gets SIGTERM says that it leaves, goes on with its calls, and
  # takes the second SIGTERM for the word that no more come.

  require Logger

  alias Snakepit.Native
  alias Snakepit.Pool.{HealthCheck, OSProcess}

  @doc "The worker is ready: calls may come, to its channel or, with none, through its process."
  def join(state, channel) do
    Process.cancel_timer(state.timer)
    %{max_concurrency: capacity, kill_grace: grace} = state.options
    key = Native.pool_add(state.pool, channel, state.id, capacity, grace)
    OSProcess.ready(state.process)
    send(state.manager, {:worker_ready, self(), key})
    %{state | timer: nil, key: key, check: HealthCheck.new(state.id, state.options)}
  end

  @doc "A worker that was paused goes on with another channel. False if it has left meanwhile."
  def resume(state, channel) do
    %{max_concurrency: capacity, kill_grace: grace} = state.options
    Native.pool_resume(state.pool, state.key, channel, state.id, capacity, grace)
  end

  @doc "No new call comes. `:snakepit_drained` tells that there is none any more."
  def drain(%{leaving: nil, key: key} = state) when key != nil do
    Native.pool_drain(state.pool, key)
    Process.send_after(self(), :drain_timeout, state.options.shutdown_timeout)
    %{state | leaving: :draining}
  end

  def drain(%{leaving: nil} = state), do: ask_to_exit(state)
  def drain(state), do: state

  @doc "The worker has said that it leaves."
  def said_draining(%{leaving: :asked} = state), do: tap(state, &OSProcess.terminate(&1.process))
  def said_draining(state), do: drain(state)

  @doc "Nothing holds it any more."
  def ask_to_exit(%{leaving: :asked} = state), do: state

  def ask_to_exit(state) do
    OSProcess.terminate(state.process)
    %{kill_grace: grace, shutdown_timeout: hooks} = state.options
    Process.send_after(self(), :exit_timeout, 2 * grace + hooks)
    %{state | leaving: :asked}
  end

  @doc "What the calls hear that a worker has when the time to finish them is up."
  def stopped_text, do: "it was stopped, and the call went on for longer than :shutdown_timeout"

  @doc "What a worker tells its manager that has ended before it was ready: SIGTERM is no failure of its own."
  def start_failure(%{why: nil, leaving: leaving, terminated: terminated})
      when leaving != nil or terminated,
      do: :terminated

  def start_failure(_state), do: :start_failed

  @doc "How long a supervisor has to wait for a worker to stop, in ms."
  def time_to_stop(options), do: 2 * options.shutdown_timeout + 3 * options.kill_grace + 4_000

  @doc "Has a worker leave whose process is about to stop: its messages are handled until it has."
  def stop_serving(%{ended: nil} = state, handle_info) do
    deadline = System.monotonic_time(:millisecond) + time_to_stop(state.options) - 2_000
    serve(drain(state), handle_info, deadline)
  end

  def stop_serving(state, _handle_info), do: state

  defp serve(%{ended: nil} = state, handle_info, deadline) do
    receive do
      {:EXIT, pid, _reason} when is_pid(pid) ->
        serve(state, handle_info, deadline)

      message ->
        case handle_info.(message, state) do
          {:noreply, state} -> serve(state, handle_info, deadline)
          {:stop, _reason, state} -> state
        end
    after
      max(deadline - System.monotonic_time(:millisecond), 0) -> state
    end
  end

  defp serve(state, _handle_info, _deadline), do: state

  @doc "No call comes any more, and no answer to a health check counts."
  def leave(%{key: nil} = state), do: state

  def leave(state) do
    Native.pool_remove(state.pool, state.key)
    %{state | key: nil, check: nil}
  end

  @doc "Kills the worker. Its exit, which the port tells, ends its process here."
  def kill(why, state) do
    OSProcess.kill(state.process)
    unless state.why, do: OSProcess.killed(state.process, why)
    %{leave(state) | why: state.why || why}
  end

  @doc "As `kill/2`, for one that was ready. One that is being killed already has its reason."
  def kill_ready(why, %{why: nil} = state) do
    Logger.warning("worker #{state.id} is killed: #{why}")
    kill(why, state)
  end

  def kill_ready(_why, state), do: state

  @doc "After a step of the health check."
  def checked({:ok, check}, state), do: %{state | check: check}
  def checked({:dead, why}, state), do: kill_ready(why, state)

  @doc """
  What a crash report or `:sys.get_status/1` may show of such a process, whatever formats it: neither
  secrets and environment, nor what callers have sent.
  """
  def without_secrets(status) do
    Map.new(status, fn
      {:state, %{id: id, key: key, why: why}} -> {:state, %{id: id, key: key, why: why}}
      {:message, message} when is_tuple(message) -> {:message, {elem(message, 0), :hidden}}
      {:log, _messages} -> {:log, []}
      other -> other
    end)
  end

  @doc "What the pool tells of the worker, with what the worker itself said, if it did."
  def description(info, state) do
    %{os_pid: state.process && state.process.os_pid, key: state.key, info: info}
  end
end
