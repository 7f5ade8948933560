defmodule Snakepit.Pool.Manager do
  @moduledoc false
  # Keeps a pool at its size: starts workers, replaces those that died, and waits longer before
  # each further attempt to start a failing one. Calls do not pass through this process.
  #
  # Each worker has a slot. The manager counts the slot's attempts until one of its workers has
  # proved itself: it has completed a call, was killed because it still ran a cancelled one, or was
  # ready for the longest back-off. Such a worker is replaced at once; any other exit is one more
  # attempt, whatever its cause.
  #
  # A working worker is replaced by one that starts beside it (`replace_worker/2`): once that is
  # ready, it takes over the slot, and the old one is retired: it finishes its calls and exits. This
  # is done for a restart, worker by worker, and for workers that have reached a limit of their
  # lives; never for both at the same time.
  use GenServer

  require Logger

  alias Snakepit.{Codec, Config, Error, Telemetry}
  alias Snakepit.Config.Options
  alias Snakepit.Error.Cause
  alias Snakepit.Native

  alias Snakepit.Pool.{
    CommandPolicy,
    Diagnostics,
    Group,
    PoolEvents,
    Recycling,
    Registry,
    Restart,
    RuntimeDir,
    StartLog,
    WorkerSupervisor,
    WorkerTable
  }

  @derive {Inspect, only: [:restarts, :workers]}
  defstruct [
    :options,
    :facts,
    :native,
    :supervisor,
    :runtime_dir,
    restarts: 0,
    workers: %WorkerTable{},
    start_log: StartLog.new(),
    no_grpc: false,
    waiting: [],
    # The current rolling restart, and the requests for the next one: `{from, why}`.
    restart: nil,
    restarts_wanted: [],
    recycling: %Recycling{},
    # Its membership in the group of the pools of this name on all nodes.
    group: nil
  ]

  @doc """
  Starts it with the pool's supervisor, the pool's options, and the properties of each adapter in
  them (`Snakepit.Adapter.facts/1`).
  """
  def start_link({_supervisor, _options, _facts} = pool),
    do: GenServer.start_link(__MODULE__, pool)

  @doc "Replaces a pool's workers one after another; `why` is a text for the log and the event."
  @spec restart(atom, String.t(), timeout) :: :ok | {:error, Error.t()}
  def restart(name, why, timeout) do
    with {:ok, %{manager: manager}} <- Registry.fetch(name),
         do: GenServer.call(manager, {:restart, why}, timeout)
  catch
    :exit, {:timeout, _call} ->
      message =
        "the pool's workers were not all replaced within #{timeout} ms; the restart continues"

      {:error, %Error{reason: :timeout, pool: name, message: message}}

    :exit, _stopped ->
      {:error, %Error{reason: :pool_stopped, pool: name, message: "the pool has stopped"}}
  end

  @doc "Changes how many workers a pool has."
  @spec resize(atom, term) :: :ok | {:error, Error.t()}
  def resize(name, size) do
    # The function of `:env` runs here, because it may take time.
    with :ok <- Options.check([size: size], Map.take(Config.types(), [:size])),
         {:ok, pool, %{options: options}} <- Diagnostics.overview(name),
         :ok <- Config.check_slots(options, 0..(size - 1)) do
      GenServer.call(pool.manager, {:resize, size}, :infinity)
    else
      {:error, error} -> {:error, %{error | pool: name}}
    end
  catch
    :exit, _stopped -> Diagnostics.stopped(name)
  end

  @impl true
  def init({supervisor, options, facts}) do
    Process.flag(:trap_exit, true)
    Registry.claim(options.name)
    error = Codec.unavailable()
    native = unless error, do: new_pool(options)
    state = %__MODULE__{options: options, facts: facts, native: native, supervisor: supervisor}
    publish(state, error, nil)

    if error,
      do: {:ok, state},
      else: {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    # The supervisor of all three is starting this process: only now can it be asked for its
    # children.
    pids = for {id, pid, _, _} <- Supervisor.which_children(state.supervisor), do: {id, pid}
    %{WorkerSupervisor => supervisor, RuntimeDir => runtime_dir} = Map.new(pids)
    state = %{state | supervisor: supervisor, runtime_dir: runtime_dir}
    PoolEvents.expire_sessions_later(state.options.session_ttl)
    {:noreply, announce(start_workers(state))}
  end

  @impl true
  def handle_call(:await_ready, from, state),
    do: {:noreply, reply_to_waiting(%{state | waiting: [from | state.waiting]})}

  def handle_call(:overview, _from, state) do
    overview = %{
      options: state.options,
      restarts: state.restarts,
      recycled: state.recycling.recycled,
      workers: overview(state)
    }

    {:reply, overview, state}
  end

  def handle_call({:restart, why}, from, state) do
    case check_replacement(state.options, state.facts) do
      :ok ->
        state = %{state | restarts_wanted: [{from, why} | state.restarts_wanted]}
        {:noreply, continue(state)}

      {:error, message} ->
        error = %Error{reason: :invalid_options, pool: state.options.name, message: message}
        {:reply, {:error, error}, state}
    end
  end

  def handle_call({:resize, size}, _from, state),
    do: {:reply, :ok, size |> resize_to(state) |> reply_to_waiting() |> continue()}

  @impl true
  def handle_info({:worker_ready, pid, key}, state) do
    case WorkerTable.get(state.workers, pid) do
      %{role: role} = worker when role != :retired ->
        if WorkerTable.failure(state.workers, worker.slot),
          do:
            Logger.info(
              "worker #{id(worker.slot, state)} is ready (attempt #{worker.attempt + 1})"
            )

        state = %{state | workers: WorkerTable.ready(state.workers, pid, key, now())}
        state = if role == :replacement, do: take_over(pid, state), else: state
        {:noreply, state |> announce() |> reply_to_waiting() |> continue()}

      _ ->
        {:noreply, state}
    end
  end

  def handle_info({:DOWN, scope, :process, _object, _reason}, %{group: %{scope: scope}} = state) do
    Group.retry(:announce)
    {:noreply, %{state | group: nil}}
  end

  def handle_info(:announce, state), do: {:noreply, announce(state)}

  def handle_info({:DOWN, _monitor, :process, pid, reason}, state) do
    case WorkerTable.pop(state.workers, pid) do
      {nil, _workers} ->
        # It was stopped for good.
        {:noreply, state}

      {worker, workers} ->
        {:noreply, continue(worker_ended(reason, worker, %{state | workers: workers}))}
    end
  end

  def handle_info({:recycle, pid, reached}, state) do
    case WorkerTable.get(state.workers, pid) do
      %{role: :current, slot: slot} ->
        request = Map.merge(%{pid: pid, slot: slot, failed: 0}, reached)
        {:noreply, continue(%{state | recycling: Recycling.want(state.recycling, request)})}

      _gone_or_leaving ->
        {:noreply, state}
    end
  end

  def handle_info({:start, native, slot, attempt, why}, %{native: native} = state) do
    # A restart may have started one meanwhile, or the pool may have become smaller.
    if WorkerTable.find(state.workers, slot, :current) || slot >= state.options.size,
      do: {:noreply, state},
      else: {:noreply, restart_worker(slot, attempt, why, state)}
  end

  def handle_info({:start, _native, _slot, _attempt, _why}, state), do: {:noreply, state}

  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}

  def handle_info(message, state) do
    PoolEvents.handle_info(message, state.options, state.native)
    {:noreply, state}
  end

  @impl true
  def terminate(reason, state) do
    Registry.stopped(state.options.name, state.native, reason)
  end

  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)
  # The options contain the workers' environment, whatever formats the state.
  def format_status(status) do
    Map.new(status, fn
      {:state, state} -> {:state, Map.take(state, [:restarts, :workers])}
      other -> other
    end)
  end

  defp publish(%{options: options} = state, error, fallback) do
    facts = Map.fetch!(state.facts, options.adapter)

    Registry.publish(options, %{
      native: state.native,
      error: error,
      fallback: fallback,
      transport: facts.transport,
      command_policy: CommandPolicy.new(facts)
    })
  end

  defp start_workers(state),
    do: Enum.reduce(slots(state), state, &start_worker(&1, 0, &2))

  defp start_worker(slot, attempt, role \\ :current, %{options: options} = state) do
    facts = Map.fetch!(state.facts, options.adapter)

    worker = %{
      id: id(slot, state),
      slot: slot,
      # Its output is part of the error if it does not become ready.
      held: attempt > 0 or role == :replacement,
      pool: state.native,
      manager: self(),
      runtime_dir: state.runtime_dir,
      options: with_port(options, facts)
    }

    started = WorkerTable.worker(slot, attempt, role)

    case WorkerSupervisor.start_worker(state.supervisor, facts.transport, worker) do
      {:ok, pid} ->
        Process.monitor(pid)
        # Started only now, so that its exit cannot be missed.
        send(pid, :start)
        %{state | workers: WorkerTable.put(state.workers, pid, started)}

      {:error, reason} ->
        worker_ended(reason, started, state)
    end
  end

  # Replaces the worker of a slot while it works. A worker that waits for its next attempt starts
  # now.
  defp replace_worker(slot, state) do
    # One that drains its sessions has old code as well.
    for pid <- WorkerTable.retired(state.workers, slot), do: send(pid, :retire)

    if WorkerTable.find(state.workers, slot, :current),
      do: start_worker(slot, 0, :replacement, state),
      else: start_worker(slot, 1, state)
  end

  # The replacement is ready and takes calls.
  defp take_over(pid, state) do
    %{slot: slot} = WorkerTable.get(state.workers, pid)
    {retired, workers} = WorkerTable.promote(state.workers, pid)
    state = %{state | workers: workers}

    case Recycling.ended(state.recycling, slot) do
      {nil, _recycling} ->
        send(retired, :retire)
        state

      {request, recycling} ->
        send(retired, :drain_sessions)
        id = id(slot, state)
        %{state | recycling: Recycling.done(recycling, request, state.options.name, id)}
    end
  end

  # After each change: the next step of the current restart, the next restart, or the replacement of
  # workers that have reached a limit.
  defp continue(state),
    do: state |> continue_restart() |> begin_restart() |> recycle() |> announce()

  # To the callers on other nodes.
  defp announce(%{group: group, options: %{name: name}, workers: workers} = state),
    do: %{state | group: Group.announce(group, name, WorkerTable.count_ready(workers) > 0)}

  defp recycle(%{restart: nil, restarts_wanted: [], workers: workers} = state) do
    current? = &match?(%{role: :current}, WorkerTable.get(workers, &1.pid))
    recycling = Recycling.filter(state.recycling, current?)
    settled? = &WorkerTable.settled?(workers, &1.slot)

    case Recycling.next(recycling, state.options.size, settled?) do
      {request, recycling} ->
        recycle(start_worker(request.slot, 0, :replacement, %{state | recycling: recycling}))

      nil ->
        %{state | recycling: recycling}
    end
  end

  defp recycle(state), do: state

  # The worker keeps running, and is replaced later.
  defp recycle_later(request, message, state) do
    wait = backoff(request.failed, state)
    request = %{request | failed: request.failed + 1}
    {%{pid: pid}, reached} = Map.split(request, [:pid, :slot])
    Process.send_after(self(), {:recycle, pid, reached}, wait)
    id = id(request.slot, state)

    message =
      "#{message}\nworker #{id} keeps running: #{request.why}, but it cannot be replaced yet"

    log = StartLog.failed(state.start_log, :error, id, message, request.failed, wait)
    %{state | start_log: log}
  end

  defp resize_to(size, %{options: %{size: size}} = state), do: state

  defp resize_to(size, %{options: %{size: old, name: name} = options} = state) do
    Native.pool_set_size(state.native, size)
    Registry.resized(name, size)
    restart = Restart.resize(state.restart, size)
    state = %{state | options: %{options | size: size}, restart: restart}
    Logger.info("the pool #{inspect(name)} changes from #{old} to #{size} workers")
    Telemetry.pool_resized(%{size: size, previous_size: old}, %{pool: name})

    # Ranges with a step, because there may be none.
    state = Enum.reduce(old..(size - 1)//1, state, &start_worker(&1, 0, &2))
    size..(old - 1)//1 |> Enum.reduce(state, &stop_slot/2) |> update_failed()
  end

  defp stop_slot(slot, state) do
    {retired, workers} = WorkerTable.retire(state.workers, slot)

    for {pid, ready?} <- retired,
        do: if(ready?, do: send(pid, :drain_sessions), else: Process.exit(pid, :shutdown))

    {_request, recycling} = Recycling.ended(state.recycling, slot)
    %{state | workers: workers, recycling: recycling}
  end

  # Fewer workers may all have failed, or none of them.
  defp update_failed(state) do
    failed = WorkerTable.count_failed(state.workers)
    why = WorkerTable.first_failure(state.workers) || ""
    Native.pool_set_failed(state.native, failed, why, state.no_grpc)
    state
  end

  # A restart requested during another one runs after it: the change that it is for may have come
  # too late for the workers already replaced.
  defp begin_restart(%{restart: nil, restarts_wanted: [_ | _] = wanted} = state) do
    # A replacement that is starting may have read the old code.
    if Recycling.idle?(state.recycling) do
      restart = Restart.new(state.options.name, Enum.reverse(wanted), state.options.size)
      replace_next(%{state | restart: restart, restarts_wanted: []})
    else
      state
    end
  end

  defp begin_restart(state), do: state

  defp replace_next(%{restart: restart} = state) do
    case Restart.next(restart) do
      nil ->
        Restart.done(restart)
        begin_restart(%{state | restart: nil})

      restart ->
        replace_worker(restart.slot, %{state | restart: restart})
    end
  end

  # Once the new worker is ready and the old one has exited, continue with the next slot.
  defp continue_restart(%{restart: nil} = state), do: state

  defp continue_restart(%{restart: %{slot: slot}} = state) do
    if slot >= state.options.size or WorkerTable.settled?(state.workers, slot),
      do: replace_next(state),
      else: state
  end

  defp fail_restart(%{slot: slot}, message, %{restart: %{slot: slot} = restart} = state) do
    Restart.failed(restart, message)
    begin_restart(%{state | restart: nil})
  end

  defp fail_restart(_worker, _message, state), do: state

  @doc "Whether a worker can be replaced by one that starts beside it, or why not."
  def check_replacement(options, facts) do
    facts = Map.fetch!(facts, options.adapter)
    facts.transport.check_replacement(with_port(options, facts))
  end

  # The adapter may set the first port to try.
  defp with_port(options, facts), do: %{options | base_port: facts.port || options.base_port}

  defp restart_worker(slot, attempt, why, state) do
    metadata = %{pool: state.options.name, worker_id: id(slot, state), why: why}
    Telemetry.worker(:restarted, %{attempt: max(attempt, 1)}, metadata)
    start_worker(slot, attempt, %{state | restarts: state.restarts + 1})
  end

  # A worker has exited, or could not be started.
  defp worker_ended(_reason, %{role: :retired} = worker, state) do
    # Forgets what is known about it.
    if worker.key, do: Native.pool_had_answered(state.native, worker.key)
    state
  end

  defp worker_ended(reason, %{role: :replacement} = worker, state) do
    {_no_grpc, message} = start_error(reason, worker, state)

    case Recycling.ended(state.recycling, worker.slot) do
      {nil, _recycling} -> fail_restart(worker, message, state)
      {request, recycling} -> recycle_later(request, message, %{state | recycling: recycling})
    end
  end

  defp worker_ended(reason, worker, state) do
    case WorkerTable.find(state.workers, worker.slot, :replacement) do
      nil when worker.ready_at == nil -> start_failed(reason, worker, state)
      nil -> ready_ended(reason, worker, state)
      pid -> ended_while_replaced(pid, reason, worker, state)
    end
  end

  # It exited while its replacement starts, which has its slot now.
  defp ended_while_replaced(pid, reason, worker, state) do
    id = id(worker.slot, state)

    why =
      if worker.ready_at, do: why(reason), else: reason |> start_error(worker, state) |> elem(1)

    Logger.warning("worker #{id} ended while it was being replaced: #{why}")
    metadata = %{pool: state.options.name, worker_id: id, why: why}
    Telemetry.worker(:restarted, %{attempt: 1}, metadata)
    {nil, workers} = WorkerTable.promote(state.workers, pid)
    {_request, recycling} = Recycling.ended(state.recycling, worker.slot)
    %{state | workers: workers, recycling: recycling, restarts: state.restarts + 1}
  end

  # It exited before it was ready.
  defp start_failed({:shutdown, {:terminated, message}}, worker, state) do
    # The first time, calls wait for the next worker, which may not get SIGTERM.
    state = try_later(worker, :warning, message, state)
    if worker.attempt > 0, do: set_failed(state, worker.slot, message, false), else: state
  end

  defp start_failed(reason, worker, state) do
    {no_grpc, message} = start_error(reason, worker, state)

    if no_grpc and state.options.fallback_adapter != nil and
         WorkerTable.count_ready(state.workers) == 0 do
      Logger.error(message)
      fall_back(message, state)
    else
      state =
        worker |> try_later(:error, message, state) |> set_failed(worker.slot, message, no_grpc)

      fail_restart(worker, message, state)
    end
  end

  defp start_error({:shutdown, {:no_grpc, message}}, _worker, _state), do: {true, message}

  defp start_error({:shutdown, {how, message}}, _worker, _state)
       when how in [:start_failed, :terminated],
       do: {false, message}

  defp start_error(reason, worker, state),
    do: {false, "worker #{id(worker.slot, state)} did not start: #{why(reason)}"}

  # It exited after it was ready.
  defp ready_ended(reason, worker, state) do
    age = now() - worker.ready_at
    {_first, longest} = state.options.restart_backoff
    answered = Native.pool_had_answered(state.native, worker.key)
    proved = answered or match?({:shutdown, {:call_continued, _why}}, reason) or age >= longest
    id = id(worker.slot, state)
    why = why(reason)

    if proved do
      Logger.warning("worker #{id} is replaced: #{why}")
      restart_worker(worker.slot, 0, why, state)
    else
      message = "worker #{id} ended #{age} ms after it was ready: #{why}"
      state = try_later(worker, :warning, message, why, state)
      # The first time, calls wait for the next worker.
      if worker.attempt > 0, do: set_failed(state, worker.slot, message, false), else: state
    end
  end

  defp why({:shutdown, {how, why}}) when how in [:exited, :call_continued], do: why
  defp why(reason), do: Cause.exited(reason)

  # How long to wait after so many failed starts before this one, in ms.
  defp backoff(failed, state) do
    {first, longest} = state.options.restart_backoff
    min(first * Integer.pow(2, min(failed, 20)), longest)
  end

  defp try_later(%{slot: slot, attempt: attempt}, level, message, why \\ nil, state) do
    wait = backoff(attempt, state)
    # Workers that failed together must not try again together.
    wait = wait - :rand.uniform(div(wait, 4) + 1) + 1
    Process.send_after(self(), {:start, state.native, slot, attempt + 1, why || message}, wait)

    start_log =
      StartLog.failed(state.start_log, level, id(slot, state), message, attempt + 1, wait)

    %{state | start_log: start_log}
  end

  # Once every worker has failed, calls fail with the reason; until then they wait for the others.
  defp set_failed(state, slot, message, no_grpc) do
    workers = WorkerTable.fail(state.workers, slot, message)
    Native.pool_set_failed(state.native, WorkerTable.count_failed(workers), message, no_grpc)
    reply_to_waiting(%{state | workers: workers, no_grpc: no_grpc})
  end

  # The pool starts again with the other adapter's workers. Callers that wait for a worker get the
  # error that gRPC is unavailable, and then find the new workers.
  defp fall_back(message, %{options: %{adapter: adapter, name: name}} = state) do
    fallback = state.options.fallback_adapter
    Logger.warning("the pool #{inspect(name)} falls back to #{inspect(fallback)}: #{message}")
    options = %{state.options | adapter: fallback, fallback_adapter: nil}
    old = state.native
    state = %{state | options: options, native: new_pool(options)}
    publish(state, nil, %{adapter: adapter, reason: message})
    Native.pool_fell_back(old, message)
    for pid <- WorkerTable.pids(state.workers), do: Process.exit(pid, :shutdown)
    metadata = %{pool: name, adapter: adapter, fallback_adapter: fallback, why: message}
    Telemetry.pool_fell_back(metadata)

    if state.restart,
      do: Restart.failed(state.restart, "the pool fell back meanwhile: #{message}")

    recycling = %Recycling{recycled: state.recycling.recycled}

    %{state | workers: %WorkerTable{}, restart: nil, recycling: recycling}
    |> start_workers()
    |> begin_restart()
  end

  defp overview(state) do
    # Workers of further slots drain, after the pool has become smaller.
    for slot <- Enum.uniq(Enum.concat(slots(state), Enum.sort(WorkerTable.slots(state.workers)))),
        {pid, phase, error} <- WorkerTable.overview(state.workers, slot) do
      %{id: id(slot, state), slot: slot, pid: pid, state: phase, error: error}
    end
  end

  defp slots(state), do: 0..(state.options.size - 1)

  # Slots count from 0, as devices and cores do; names of workers from 1.
  defp id(slot, state), do: "#{inspect(state.options.name)}/#{slot + 1}"

  defp reply_to_waiting(state) do
    failure = WorkerTable.first_failure(state.workers)

    cond do
      WorkerTable.count_ready(state.workers) == state.options.size ->
        reply_all(:ok, %{state | start_log: StartLog.new()})

      failure ->
        reply_all({:error, not_ready_error(failure, state)}, state)

      true ->
        state
    end
  end

  defp not_ready_error(message, state) do
    reason = if state.no_grpc, do: :grpc_unavailable, else: :worker_start_failed
    %Error{reason: reason, pool: state.options.name, message: message}
  end

  defp reply_all(reply, state) do
    Enum.each(state.waiting, &GenServer.reply(&1, reply))
    %{state | waiting: []}
  end

  # The native library takes only the options that it knows.
  defp new_pool(options) do
    options
    |> Map.new(fn {option, value} -> {option, Codec.millis(value)} end)
    |> Map.put(:remote, false)
    |> Native.pool_new(Telemetry.available?())
  end

  defp now, do: System.monotonic_time(:millisecond)
end
