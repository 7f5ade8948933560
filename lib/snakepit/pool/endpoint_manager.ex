defmodule Snakepit.Pool.EndpointManager do
  @moduledoc false
  # The manager of a remote pool: it has a process for each endpoint, and answers the questions about the pool, as
  # `Snakepit.Pool.Manager` does for a pool that starts its own workers. Calls do not pass through this
  # process.
  use GenServer

  require Logger

  alias Snakepit.{Codec, Error, Native, Telemetry}
  alias Snakepit.Config.Endpoints
  alias Snakepit.Error.Cause
  alias Snakepit.GRPC.RemoteTransport
  alias Snakepit.Pool.{Group, PoolEvents, Registry, Resolver, WorkerSupervisor}

  # The options contain secrets.
  @derive {Inspect, only: [:endpoints]}
  defstruct [
    :options,
    :native,
    :supervisor,
    # By address.
    endpoints: %{},
    next_slot: 0,
    # The resolution in progress, whether another one is to follow, and why the last one failed.
    resolving: nil,
    resolve_again: false,
    unresolved: nil,
    # The reason with which calls fail because every endpoint has.
    failure: nil,
    timer: nil,
    # Its membership in the group of the pools of this name on all nodes.
    group: nil,
    waiting: [],
    reconnects: 0
  ]

  # How often endpoints are resolved again, in ms, and how soon if there are none.
  @resolve_every 30_000
  @resolve_soon 1_000

  @doc "Starts it with the pool's supervisor and the pool's options."
  def start_link({_supervisor, _options} = pool), do: GenServer.start_link(__MODULE__, pool)

  @impl true
  def init({supervisor, options}) do
    Process.flag(:trap_exit, true)
    Registry.claim(options.name)
    error = Codec.unavailable()
    native = unless error, do: new_pool(options)
    state = %__MODULE__{options: options, native: native, supervisor: supervisor}
    publish(state, error)

    if error,
      do: {:ok, state},
      else: {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    # The supervisor of both is starting this process: only now can it be asked for its children.
    children = Supervisor.which_children(state.supervisor)
    {_id, supervisor, _type, _modules} = List.keyfind!(children, WorkerSupervisor, 0)
    state = %{state | supervisor: supervisor}
    PoolEvents.expire_sessions_later(state.options.session_ttl)

    {:noreply, announce(resolve(state))}
  end

  @impl true
  def handle_call(:await_ready, from, state),
    do: {:noreply, reply_to_waiting(%{state | waiting: [from | state.waiting]})}

  def handle_call(:overview, _from, state) do
    workers =
      for {address, endpoint} <- by_slot(state) do
        %{
          id: Endpoints.worker_id(state.options.name, address),
          slot: endpoint.slot,
          pid: endpoint.pid,
          endpoint: address,
          state: endpoint.phase,
          error: endpoint.error
        }
      end

    overview = %{
      options: state.options,
      restarts: state.reconnects,
      recycled: 0,
      workers: workers
    }

    {:reply, overview, state}
  end

  def handle_call({:restart, _why}, _from, state) do
    {:error, message} = RemoteTransport.check_replacement(state.options)
    {:reply, {:error, refused(message, state)}, state}
  end

  def handle_call({:resize, _size}, _from, state) do
    message = "the number of workers of a remote pool is that of its :endpoints"
    {:reply, {:error, refused(message, state)}, state}
  end

  defp refused(message, state),
    do: %Error{reason: :invalid_options, pool: state.options.name, message: message}

  @impl true
  def handle_info({:endpoint, pid, report}, state) do
    case find(pid, state) do
      {address, endpoint} ->
        back? = report.phase == :ready and endpoint.phase != :ready and endpoint.was_ready
        reconnects = if back?, do: state.reconnects + 1, else: state.reconnects
        lost? = connected?(endpoint) and not connected?(report)
        was_ready = endpoint.was_ready or report.phase == :ready
        endpoint = endpoint |> Map.merge(report) |> Map.put(:was_ready, was_ready)
        state = put_in(%{state | reconnects: reconnects}.endpoints[address], endpoint)
        state = if lost?, do: state |> remove_if_gone(address) |> resolve(), else: state
        {:noreply, state |> update_failed() |> announce() |> reply_to_waiting()}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info({:resolved, ref, result}, %{resolving: ref} = state) do
    state = resolved(result, %{state | resolving: nil})

    if state.resolve_again,
      do: {:noreply, resolve(%{state | resolve_again: false})},
      else: {:noreply, resolve_later(state)}
  end

  def handle_info({:resolved, _late, _result}, state), do: {:noreply, state}
  def handle_info(:resolve, state), do: {:noreply, resolve(state)}

  # It still takes calls. If too many would be out it continues, with its sessions.
  def handle_info({:endpoint_failing, pid, why}, state) do
    if may_be_out?(ejected(state) + 1, state), do: send(pid, {:eject, why})
    {:noreply, state}
  end

  # It has left the dispatcher. It returns at once if too many have.
  def handle_info({:endpoint_ejected, pid}, %{options: options} = state) do
    time = if may_be_out?(ejected(state), state), do: options.eject[:for], else: 0
    send(pid, {:readmit_after, time})
    {:noreply, state}
  end

  def handle_info({:DOWN, scope, :process, _object, _reason}, %{group: %{scope: scope}} = state) do
    Group.retry(:announce)
    {:noreply, %{state | group: nil}}
  end

  def handle_info(:announce, state), do: {:noreply, announce(state)}

  # It has crashed.
  def handle_info({:DOWN, _monitor, :process, pid, reason}, state) do
    case find(pid, state) do
      {address, _endpoint} ->
        why = Cause.exited(reason)
        {:noreply, address |> start_later(why, state) |> announce()}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info({:start, address}, state) do
    case state.endpoints do
      %{^address => %{pid: nil} = endpoint} -> {:noreply, start(address, endpoint, state)}
      _ -> {:noreply, state}
    end
  end

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

  def format_status(status) do
    Map.new(status, fn
      {:state, state} -> {:state, Map.take(state, [:endpoints])}
      other -> other
    end)
  end

  defp publish(%{options: options} = state, error) do
    Registry.publish(options, %{
      native: state.native,
      error: error,
      fallback: nil,
      transport: RemoteTransport,
      command_policy: nil
    })
  end

  # A list stays as it is.
  defp resolve(%{options: %{endpoints: endpoints}} = state)
       when is_list(endpoints) and state.endpoints != %{},
       do: state

  defp resolve(%{resolving: nil} = state) do
    if state.timer, do: Process.cancel_timer(state.timer)
    %{state | resolving: Resolver.start(state.options.endpoints), timer: nil}
  end

  defp resolve(state), do: %{state | resolve_again: true}

  defp resolve_later(%{options: %{endpoints: endpoints}} = state) when is_list(endpoints),
    do: state

  defp resolve_later(state) do
    wait = if state.endpoints == %{}, do: @resolve_soon, else: @resolve_every
    %{state | timer: Process.send_after(self(), :resolve, wait)}
  end

  # What is connected stays until its connection is lost, also if it is not found any more.
  defp resolved({:ok, found}, state) do
    # A name may have an address twice.
    found = Enum.uniq_by(found, & &1.address)
    addresses = MapSet.new(found, & &1.address)

    state =
      for {address, endpoint} <- state.endpoints, reduce: %{state | unresolved: nil} do
        state ->
          endpoint = %{endpoint | gone: address not in addresses}
          remove_if_gone(put_in(state.endpoints[address], endpoint), address)
      end

    new = Enum.reject(found, &Map.has_key?(state.endpoints, &1.address))
    new |> Enum.reduce(state, &add/2) |> set_size() |> update_failed() |> reply_to_waiting()
  end

  defp resolved({:error, why}, state) do
    if why != state.unresolved, do: Logger.error("pool #{inspect(state.options.name)}: #{why}")
    reply_to_waiting(update_failed(%{state | unresolved: why}))
  end

  defp add(%{address: address, server_name: server_name}, %{next_slot: slot} = state) do
    endpoint = %{
      slot: slot,
      server_name: server_name,
      pid: nil,
      phase: :connecting,
      error: nil,
      failed: false,
      was_ready: false,
      gone: false
    }

    start(address, endpoint, %{state | next_slot: slot + 1})
  end

  defp ejected(state),
    do: Enum.count(state.endpoints, fn {_address, endpoint} -> endpoint.phase == :ejected end)

  defp may_be_out?(number, %{options: options, endpoints: endpoints}),
    do: number <= options.eject[:at_most] * map_size(endpoints)

  defp connected?(endpoint), do: endpoint.phase in [:ready, :ejected]

  defp remove_if_gone(state, address) do
    endpoint = state.endpoints[address]

    if endpoint.gone and not connected?(endpoint) do
      if endpoint.pid, do: send(endpoint.pid, :stop)
      set_size(%{state | endpoints: Map.delete(state.endpoints, address)})
    else
      state
    end
  end

  defp set_size(%{options: %{size: size, name: name} = options} = state) do
    case max(map_size(state.endpoints), 1) do
      ^size ->
        state

      new ->
        Native.pool_set_size(state.native, new)
        state = %{state | options: %{options | size: new}}
        publish(state, nil)
        Telemetry.pool_resized(%{size: new, previous_size: size}, %{pool: name})
        state
    end
  end

  defp start(address, endpoint, %{options: options} = state) do
    worker = %{
      id: Endpoints.worker_id(options.name, address),
      address: address,
      server_name: endpoint.server_name,
      slot: endpoint.slot,
      pool: state.native,
      manager: self(),
      options: options
    }

    state = put_in(state.endpoints[address], endpoint)

    case WorkerSupervisor.start_worker(state.supervisor, RemoteTransport, worker) do
      {:ok, pid} ->
        Process.monitor(pid)
        # Started only now, so that its exit cannot be missed.
        send(pid, :start)
        put_in(state.endpoints[address].pid, pid)

      {:error, reason} ->
        start_later(address, Cause.exited(reason), state)
    end
  end

  defp start_later(address, why, state) do
    Logger.error("endpoint #{Endpoints.worker_id(state.options.name, address)}: #{why}")
    {first, _longest} = state.options.reconnect_backoff
    Process.send_after(self(), {:start, address}, first)
    change = %{pid: nil, phase: :connecting, error: why}
    update_in(state.endpoints[address], &Map.merge(&1, change))
  end

  defp find(pid, state),
    do: Enum.find(state.endpoints, fn {_address, endpoint} -> endpoint.pid == pid end)

  defp by_slot(state),
    do: Enum.sort_by(state.endpoints, fn {_address, endpoint} -> endpoint.slot end)

  # While every endpoint has failed, calls fail with the reason.
  defp update_failed(state) do
    case failures(state) do
      [] ->
        # The last failure is told to calls that end before an endpoint is ready.
        if why = state.failure, do: Native.pool_set_failed(state.native, 0, why, true)
        %{state | failure: nil}

      [why | _] = failed ->
        Native.pool_set_failed(state.native, length(failed), why, true)
        %{state | failure: why}
    end
  end

  defp failures(%{endpoints: endpoints} = state) when endpoints == %{},
    do: List.wrap(state.unresolved)

  defp failures(state),
    do: for({_address, %{failed: true, error: why}} <- by_slot(state), do: why)

  # To the callers on other nodes.
  defp announce(%{group: group, options: %{name: name}} = state),
    do: %{state | group: Group.announce(group, name, ready(state) > 0)}

  defp ready(state),
    do: Enum.count(state.endpoints, fn {_address, endpoint} -> endpoint.phase == :ready end)

  defp reply_to_waiting(state) do
    ready = ready(state)

    cond do
      ready == map_size(state.endpoints) and ready > 0 ->
        reply_all(:ok, state)

      why = List.first(failures(state)) ->
        error = %Error{reason: :grpc_unavailable, pool: state.options.name, message: why}
        reply_all({:error, error}, state)

      true ->
        state
    end
  end

  defp reply_all(reply, state) do
    Enum.each(state.waiting, &GenServer.reply(&1, reply))
    %{state | waiting: []}
  end

  # The native library takes only the options that it knows.
  defp new_pool(options) do
    options
    |> Map.put(:startup_timeout, options.connect_timeout)
    |> Map.new(fn {option, value} -> {option, Codec.millis(value)} end)
    |> Map.put(:remote, true)
    |> Native.pool_new(Telemetry.available?())
  end
end
