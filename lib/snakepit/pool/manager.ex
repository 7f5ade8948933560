defmodule Snakepit.Pool.Manager do
  @moduledoc false
  # Keeps a pool at its size: starts workers, replaces those that died, and waits longer each time
  # before it tries again what does not start. Calls do not pass through here.
  use GenServer

  require Logger

  alias Snakepit.{Adapter, Error, Telemetry}
  alias Snakepit.GRPC.{Client, Native}
  alias Snakepit.Pool.{Gate, RuntimeDir, WorkerSupervisor}

  defstruct [
    :options,
    :native,
    :supervisor,
    :runtime_dir,
    restarts: 0,
    workers: %{},
    failed: %{},
    no_grpc: false,
    waiting: []
  ]

  def start_link(options), do: GenServer.start_link(__MODULE__, options)

  @doc "What a call needs to know of its pool."
  def fetch(name) do
    case :persistent_term.get({Snakepit.Pool, name}, nil) do
      nil ->
        message =
          "there is no pool #{inspect(name)}; start one with {Snakepit.Pool, name: #{inspect(name)}} " <>
            "under a supervisor, or with `config :snakepit, pool_config: %{}`"

        {:error, %Error{reason: :pool_stopped, pool: name, message: message}}

      %{error: nil} = pool ->
        {:ok, pool}

      %{error: error} ->
        {:error, %{error | pool: name}}
    end
  end

  @impl true
  def init({supervisor, options}) do
    Process.flag(:trap_exit, true)
    claim(Module.concat(options.name, "Manager"))
    error = Client.unavailable()
    native = unless error, do: new_pool(options)

    publish(options, native, error, nil)
    state = %__MODULE__{options: options, native: native, supervisor: supervisor}

    if error,
      do: {:ok, state},
      else: {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    # The supervisor of all three is starting us: its children can be asked for only now.
    pids = for {id, pid, _, _} <- Supervisor.which_children(state.supervisor), do: {id, pid}
    %{WorkerSupervisor => supervisor, RuntimeDir => runtime_dir} = Map.new(pids)
    state = %{state | supervisor: supervisor, runtime_dir: runtime_dir}
    expire_sessions_later(state.options.session_ttl)
    {:noreply, start_workers(state)}
  end

  @impl true
  def handle_call(:await_ready, from, state),
    do: {:noreply, tell_waiting(%{state | waiting: [from | state.waiting]})}

  def handle_call(:overview, _from, state) do
    overview = %{options: state.options, restarts: state.restarts, workers: overview(state)}
    {:reply, overview, state}
  end

  @impl true
  def handle_info({:worker_ready, pid}, state) do
    case state.workers do
      %{^pid => {slot, _attempt, _phase}} ->
        workers = Map.put(state.workers, pid, {slot, 0, :ready})

        {:noreply,
         tell_waiting(%{state | workers: workers, failed: Map.delete(state.failed, slot)})}

      _ ->
        {:noreply, state}
    end
  end

  def handle_info({:DOWN, _monitor, :process, pid, reason}, state) do
    case Map.pop(state.workers, pid) do
      {{slot, attempt, _phase}, workers} ->
        {:noreply, replace(reason, slot, attempt, %{state | workers: workers})}

      # It was stopped for good.
      {nil, _workers} ->
        {:noreply, state}
    end
  end

  def handle_info({:start, native, slot, attempt}, %{native: native} = state),
    do: {:noreply, restart_worker(slot, attempt, state.failed[slot], state)}

  def handle_info({:start, _native, _slot, _attempt}, state), do: {:noreply, state}

  def handle_info({:snakepit_session, event, ids, worker_id}, state) do
    metadata = %{pool: state.options.name, worker_id: worker_id}
    for id <- ids, do: Telemetry.session(event, Map.put(metadata, :session_id, id))
    {:noreply, state}
  end

  def handle_info({:snakepit_stream_ended, span, event, meta, chunks, first_chunk_us}, state) do
    Telemetry.stream_ended(span, event, meta, chunks, first_chunk_us)
    {:noreply, state}
  end

  def handle_info(:expire_sessions, state) do
    Native.pool_expire_sessions(state.native)
    expire_sessions_later(state.options.session_ttl)
    {:noreply, state}
  end

  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}

  @impl true
  def terminate(_reason, state) do
    # Whoever finds the pool from here on, or has found it, hears that it has stopped.
    if state.native, do: Native.pool_close(state.native)
    :persistent_term.erase({Snakepit.Pool, state.options.name})
  end

  # Of the managers of one name there is one at a time that publishes the pool and takes that back: where
  # a supervisor was killed its manager may still be about to end when the next one starts.
  defp claim(name) do
    Process.register(self(), name)
  rescue
    ArgumentError ->
      if earlier = Process.whereis(name) do
        monitor = Process.monitor(earlier)
        receive do: ({:DOWN, ^monitor, :process, ^earlier, _reason} -> :ok)
      end

      claim(name)
  end

  defp publish(options, native, error, fallback) do
    pool =
      options
      |> Map.take([:timeout, :queue_timeout, :demand, :max_message_size])
      |> Map.merge(%{native: native, error: error, manager: self(), fallback: fallback})
      |> Map.put(:telemetry, Telemetry.available?())
      |> Map.merge(%{grpc?: Adapter.grpc?(options.adapter), gate: Gate.new(options.adapter)})

    :persistent_term.put({Snakepit.Pool, options.name}, pool)
  end

  defp start_workers(state),
    do: Enum.reduce(1..state.options.size, state, &start_worker(&1, 0, &2))

  defp start_worker(slot, attempt, state) do
    worker = %{
      id: id(slot, state),
      pool: state.native,
      manager: self(),
      runtime_dir: state.runtime_dir,
      options: state.options
    }

    {:ok, pid} = WorkerSupervisor.start_worker(state.supervisor, worker)
    Process.monitor(pid)
    workers = Map.put(state.workers, pid, {slot, attempt, :starting})
    %{state | workers: workers}
  end

  defp restart_worker(slot, attempt, why, state) do
    metadata = %{pool: state.options.name, worker_id: id(slot, state), why: why}
    Telemetry.worker(:restarted, %{attempt: max(attempt, 1)}, metadata)
    start_worker(slot, attempt, %{state | restarts: state.restarts + 1})
  end

  defp replace({:shutdown, {failed, message}}, slot, attempt, state)
       when failed in [:start_failed, :no_grpc] do
    Logger.error(message)
    no_grpc = failed == :no_grpc

    if no_grpc and state.options.fallback_adapter != nil and count_ready(state) == 0 do
      fall_back(message, state)
    else
      {first, longest} = state.options.restart_backoff
      wait = min(first * Integer.pow(2, min(attempt, 20)), longest)
      # Workers that failed together must not try again together.
      wait = wait - :rand.uniform(div(wait, 4) + 1) + 1
      Process.send_after(self(), {:start, state.native, slot, attempt + 1}, wait)
      Native.pool_set_unavailable(state.native, message, no_grpc)
      failed = Map.put(state.failed, slot, message)
      tell_waiting(%{state | failed: failed, no_grpc: no_grpc})
    end
  end

  defp replace(reason, slot, attempt, state) do
    why =
      case reason do
        {:shutdown, {:exited, why}} -> why
        other -> Exception.format_exit(other)
      end

    Logger.warning("worker #{inspect(state.options.name)}/#{slot} is replaced: #{why}")
    restart_worker(slot, attempt, why, state)
  end

  # The pool starts anew, with workers of the other adapter. Who waits for a worker is told that there
  # is no gRPC, and finds them there.
  defp fall_back(message, %{options: %{adapter: adapter, name: name}} = state) do
    fallback = state.options.fallback_adapter
    Logger.warning("the pool #{inspect(name)} falls back to #{inspect(fallback)}: #{message}")
    options = %{state.options | adapter: fallback, fallback_adapter: nil}
    native = new_pool(options)
    publish(options, native, nil, %{adapter: adapter, reason: message})
    Native.pool_fell_back(state.native, message)
    for {pid, _worker} <- state.workers, do: Process.exit(pid, :shutdown)
    metadata = %{pool: name, adapter: adapter, fallback_adapter: fallback, why: message}
    Telemetry.pool_fell_back(metadata)
    start_workers(%{state | options: options, native: native, workers: %{}, failed: %{}})
  end

  defp overview(state) do
    running =
      Map.new(state.workers, fn {pid, {slot, _attempt, phase}} -> {slot, {pid, phase}} end)

    for slot <- 1..state.options.size do
      {pid, phase} = Map.get(running, slot, {nil, :waiting})
      %{id: id(slot, state), pid: pid, state: phase, error: state.failed[slot]}
    end
  end

  defp id(slot, state), do: "#{inspect(state.options.name)}/#{slot}"

  defp tell_waiting(state) do
    cond do
      count_ready(state) == state.options.size -> reply_all(:ok, state)
      state.failed != %{} -> reply_all({:error, start_error(state)}, state)
      true -> state
    end
  end

  defp count_ready(state),
    do: Enum.count(state.workers, &match?({_pid, {_slot, _attempt, :ready}}, &1))

  defp expire_sessions_later(:infinity), do: nil

  defp expire_sessions_later(ttl) do
    Process.send_after(self(), :expire_sessions, ttl |> div(4) |> max(100) |> min(60_000))
  end

  defp start_error(state) do
    {_slot, message} = Enum.min(state.failed)
    reason = if state.no_grpc, do: :grpc_unavailable, else: :worker_start_failed
    %Error{reason: reason, pool: state.options.name, message: message}
  end

  defp reply_all(reply, state) do
    Enum.each(state.waiting, &GenServer.reply(&1, reply))
    %{state | waiting: []}
  end

  defp new_pool(options) do
    ttl = if options.session_ttl != :infinity, do: options.session_ttl
    %{max_queue: queue, max_sessions: sessions, pipeline_budget: budget} = options
    Native.pool_new(queue, sessions, ttl, budget, Telemetry.available?())
  end
end
