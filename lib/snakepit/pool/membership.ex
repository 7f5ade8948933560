defmodule Snakepit.Pool.Membership do
  @moduledoc false
  # A worker's place in its pool, from the moment it is ready until it leaves: the same for both kinds
  # of worker, whose state has `:id`, `:pool`, `:manager`, `:options`, `:process`, `:key`, `:timer`,
  # `:check` and `:why`.

  require Logger

  alias Snakepit.GRPC.Native
  alias Snakepit.Pool.{HealthCheck, OSProcess}

  @doc "The worker is ready: calls may come, to its channel or, with none, through its process."
  def join(state, channel) do
    Process.cancel_timer(state.timer)
    %{max_concurrency: capacity, kill_grace: grace} = state.options
    key = Native.pool_add(state.pool, channel, state.id, capacity, grace)
    OSProcess.ready(state.process)
    send(state.manager, {:worker_ready, self()})
    %{state | timer: nil, key: key, check: HealthCheck.new(state.id, state.options)}
  end

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

  @doc "What the pool tells of the worker, with what the worker itself said, if it did."
  def description(info, state) do
    %{os_pid: state.process && state.process.os_pid, key: state.key, info: info}
  end
end
