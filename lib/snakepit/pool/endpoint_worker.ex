defmodule Snakepit.Pool.EndpointWorker do
  @moduledoc false
  # One endpoint of a remote pool: the connection to a server that the pool does not start. The endpoint is
  # in the dispatcher only while its connection lives and the server is healthy. No request passes through
  # this process. It is in one of these phases, which it reports to the manager:
  #
  #   * `:connecting` - it has no connection, and keeps trying
  #   * `:draining` - the server says that it takes no calls, usually because it is about to end
  #   * `:ready` - it takes calls
  #   * `:ejected` - it takes no calls for a while: calls fail by its fault, or a local worker would be killed
  #
  # When a connection is lost, the endpoint is paused while the next one is made, once. If that reaches the same process of
  # the server, its sessions continue; otherwise they are lost, as those of a worker that has died.
  use GenServer, restart: :temporary

  alias Snakepit.{Codec, Native, Telemetry}
  alias Snakepit.GRPC.Channel
  alias Snakepit.Pool.{HealthCheck, PoolEvents, StartLog, WorkerSpec}

  require Logger

  # A server that closes connections younger than this, in ms, serves nobody.
  @shortest_connection 100
  # How long a supervisor waits in addition to `:shutdown_timeout`, in ms.
  @stop_grace 2_000
  # How often to look whether calls are left, in ms, after a lost connection has ended them.
  @drain_poll 50
  # How many earlier connections are known. A server that closes connections because they are old may have more, whose
  # calls have their own deadlines.
  @earlier 8

  # The options contain secrets.
  @derive {Inspect, only: [:id, :phase, :key]}
  defstruct [
    :id,
    :address,
    # The name of its certificate, if that is not the host of the address.
    :server_name,
    :slot,
    # The native side of the pool, its manager and its options.
    :pool,
    :manager,
    :options,
    # Shared by its connections: how often the server is asked whether it is there.
    :keepalive,
    # Shared by them as well: how many calls in a row have failed by its fault.
    :faults,
    # Its connection, and the reference of the message that reports its end.
    :channel,
    :closed,
    # The answer that the next step waits for: `{step, ref}`.
    :awaited,
    # While calls may come, or it is paused: its key in the dispatcher, and which process of the server it is.
    :key,
    :instance,
    :check,
    # Since when it has been ready or not, and when it was last ready, in ms; and why it is not now.
    :since,
    :ready_until,
    :error,
    phase: :connecting,
    # How many attempts to connect have failed in a row.
    attempt: 0,
    batches: [],
    log: StartLog.new(),
    asked: %{},
    # Connections that get no more calls, but may still have some, each with its key in the dispatcher.
    earlier: []
  ]

  @doc "Options: `:id`, `:address`, `:server_name`, `:slot`, `:pool` (native), `:manager`, `:options` (the pool's)."
  def start_link(endpoint), do: GenServer.start_link(__MODULE__, endpoint)

  @doc "How long a supervisor has to wait for an endpoint to stop, in ms."
  @spec time_to_stop(map) :: pos_integer
  def time_to_stop(options), do: options.shutdown_timeout + options.kill_grace + @stop_grace

  @impl true
  def init(endpoint) do
    # To let calls finish when the pool stops.
    Process.flag(:trap_exit, true)
    state = struct(__MODULE__, endpoint)
    keepalive = Channel.keepalive(state.options.keepalive)
    check = HealthCheck.new(state.id, state.options)
    faults = faults(state.options.eject[:failures])
    {:ok, %{state | keepalive: keepalive, faults: faults, check: check, since: now()}}
  end

  defp faults(:infinity), do: nil
  defp faults(limit), do: Native.faults(limit)

  @impl true
  def handle_call({:describe, _what, _timeout}, _from, %{phase: phase} = state)
      when phase != :ready,
      do: {:reply, description(state, nil), state}

  def handle_call({:describe, what, timeout}, from, state) do
    {:ok, ref} = Channel.start_info(state.channel, timeout, what == :commands)
    {:noreply, %{state | asked: Map.put(state.asked, ref, from)}}
  end

  @impl true
  # The manager monitors this process now.
  def handle_info(:start, state), do: {:noreply, connect(state)}

  def handle_info(:connect, %{phase: phase, awaited: nil} = state)
      when phase in [:connecting, :draining],
      do: {:noreply, connect(state)}

  # It has been ejected meanwhile, and perhaps connects again already.
  def handle_info(:connect, state), do: {:noreply, state}

  def handle_info({ref, {:ok, how}}, %{awaited: {:prepare, ref}} = state),
    do: {:noreply, connect(how, state)}

  def handle_info({ref, {:error, message}}, %{awaited: {:prepare, ref}} = state),
    do: {:noreply, failed(message, state)}

  def handle_info({ref, {:ok, channel}}, %{awaited: {:connect, ref}} = state),
    do: {:noreply, ask_health(%{state | channel: channel, closed: ref})}

  def handle_info(
        {ref, {:ok, %{"healthy" => true} = health}},
        %{awaited: {:health, ref}} = state
      ) do
    if state.closed,
      do: {:noreply, join(health, %{state | awaited: nil})},
      else: {:noreply, failed("the server at #{state.address} closed the connection", state)}
  end

  def handle_info({ref, {:ok, _health}}, %{awaited: {:health, ref}} = state),
    do:
      {:noreply,
       failed("the server takes no calls: it drains, or is not healthy", :draining, state)}

  def handle_info({ref, {:error, failure}}, %{awaited: {step, ref}} = state) do
    case Codec.error(failure) do
      %{reason: :timeout} when step == :health ->
        timeout = state.options.connect_timeout

        why =
          "the server accepts connections, but gave no answer within #{timeout} ms (:connect_timeout)"

        # Nor will calls get any that it still has.
        {:noreply, failed(why, close(state))}

      error ->
        {:noreply, failed(error.message, state)}
    end
  end

  # Its connection accepts no more calls, because it is lost or the server drains. Those that already run on it may finish.
  def handle_info({ref, {:closed, lasted}}, %{closed: ref, phase: :ready} = state) do
    state = lost("the connection to #{state.address} was closed", state)
    # A server may close a connection only because it is old.
    if lasted >= @shortest_connection,
      do: {:noreply, connect(state)},
      else: {:noreply, connect_later(leave(state))}
  end

  def handle_info({ref, {:closed, _}}, %{closed: ref, phase: :ejected, awaited: nil} = state),
    do: {:noreply, forget(state)}

  # The question for its health fails with the cause.
  def handle_info({ref, {:closed, _}}, %{closed: ref, awaited: {:health, _}} = state),
    do: {:noreply, %{state | closed: nil}}

  def handle_info({ref, {:closed, _}}, %{closed: ref} = state),
    do: {:noreply, failed("the server at #{state.address} closed the connection", state)}

  def handle_info(:check_health, %{phase: :ready} = state) do
    ask = fn timeout ->
      {:ok, ref} = Channel.start_health(state.channel, "", timeout)
      ref
    end

    {:noreply, checked(HealthCheck.tick(state.check, ask), drop_idle(state))}
  end

  def handle_info(:check_health, state),
    do: {:noreply, %{state | check: HealthCheck.skip(state.check)}}

  def handle_info({ref, {:ok, health}}, %{check: %{pending: ref} = check} = state),
    do: {:noreply, checked(HealthCheck.answered(check, health), state)}

  def handle_info({ref, {:error, failure}}, %{check: %{pending: ref} = check} = state) do
    case Codec.error(failure) do
      # Its token was replaced: there may be a new one. What runs on the connection goes on.
      %{reason: :unauthenticated, message: why} when state.phase == :ready ->
        {:noreply, connect(lost(why, %{state | check: HealthCheck.reset(check)}))}

      error ->
        {:noreply, checked(HealthCheck.failed(check, error), state)}
    end
  end

  # A call was refused: it may be the command that refuses it.
  def handle_info(:snakepit_refused, %{phase: :ready, check: %{pending: nil} = check} = state) do
    {:ok, ref} = Channel.start_health(state.channel, "", state.options.connect_timeout)
    {:noreply, %{state | check: HealthCheck.asked(check, ref)}}
  end

  def handle_info({ref, answer}, %{asked: asked} = state) when is_map_key(asked, ref) do
    {from, asked} = Map.pop!(asked, ref)
    info = with {:ok, info} <- answer, do: info
    GenServer.reply(from, description(state, if(is_map(info), do: info)))
    {:noreply, %{state | asked: asked}}
  end

  # The dispatcher has removed it already, or a local worker would be killed: it is out until the manager
  # says when to try again.
  def handle_info({:snakepit_kill, why}, %{phase: :ready} = state),
    do: {:noreply, eject(why, state)}

  # Too many of its calls have failed. It still takes calls, so that the manager can decide.
  def handle_info({:snakepit_failing, why}, %{phase: phase} = state)
      when phase in [:ready, :connecting] do
    send(state.manager, {:endpoint_failing, self(), why})
    {:noreply, state}
  end

  def handle_info({:eject, why}, %{phase: phase} = state) when phase in [:ready, :connecting],
    do: {:noreply, eject(why, state)}

  def handle_info({:readmit_after, ms}, %{phase: :ejected} = state) do
    Process.send_after(self(), :readmit, ms)
    {:noreply, state}
  end

  def handle_info(:readmit, %{phase: :ejected, channel: nil} = state),
    do: {:noreply, connect(state)}

  def handle_info(:readmit, %{phase: :ejected} = state), do: {:noreply, ask_health(state)}

  # The server is not among the endpoints any more.
  def handle_info(:stop, state), do: {:stop, :normal, state}

  def handle_info({:snakepit_handler_exited, exit}, state) do
    PoolEvents.handler_exited(exit, state.options.name, state.id)
    {:noreply, state}
  end

  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    until = now() + state.options.shutdown_timeout
    state = if state.key, do: drained(until, state), else: state
    state = state |> leave() |> give_up()
    end_by(until, state.earlier)
  end

  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)

  def format_status(status) do
    Map.new(status, fn
      {:state, state} -> {:state, Map.take(state, [:id, :phase, :key, :attempt])}
      {:message, message} when is_tuple(message) -> {:message, {elem(message, 0), :hidden}}
      {:log, _messages} -> {:log, []}
      other -> other
    end)
  end

  # The user's function for the token may take time, and so may reading files.
  defp connect(%{options: options} = state) do
    ref = Channel.start_credentials(options, state.server_name, options.connect_timeout)
    phase = if state.phase == :draining, do: :draining, else: :connecting
    report(%{state | phase: phase, awaited: {:prepare, ref}})
  end

  defp connect(how, %{options: options} = state) do
    limits = [timeout: options.connect_timeout, max_message_size: options.max_message_size]
    how = [calls: options.calls, keepalive: state.keepalive] ++ limits ++ how

    case Channel.start_connect(state.address, how) do
      {:ok, ref} -> %{state | awaited: {:connect, ref}}
      {:error, error} -> failed(error.message, state)
    end
  end

  defp ask_health(state) do
    {:ok, ref} = Channel.start_health(state.channel, "", state.options.connect_timeout)
    %{state | awaited: {:health, ref}}
  end

  defp join(health, state) do
    if state.error, do: Logger.info("endpoint #{state.id} is ready")
    state = %{state | batches: WorkerSpec.batches(health), check: HealthCheck.reset(state.check)}
    state = enter(health["instance_id"], state)
    emit(:ready, %{duration: lasted(state)}, %{}, state)
    state = %{state | phase: :ready, attempt: 0, error: nil, log: StartLog.new()}
    report(%{state | ready_until: nil, since: now()})
  end

  defp enter(instance, %{pool: pool, channel: channel} = state) do
    spec = WorkerSpec.new(state, false)
    # Other servers than Snakepit's have no number.
    same? = instance == state.instance and instance not in [nil, 0]

    if same? and state.key != nil and Native.pool_resume(pool, state.key, channel, spec) do
      state
    else
      %{leave(state) | key: Native.pool_add(pool, channel, spec), instance: instance}
    end
  end

  # It leaves the dispatcher, and with it its sessions.
  defp leave(%{key: nil} = state), do: state

  defp leave(state) do
    Native.pool_remove(state.pool, state.key)
    %{state | key: nil}
  end

  defp not_ready(why, %{phase: :ready} = state),
    do: %{state | error: why, ready_until: now(), since: now()}

  # It tries to connect.
  defp not_ready(why, state), do: %{close(state) | error: why, since: now()}

  defp lost(why, state) do
    Logger.warning("endpoint #{state.id} is not ready: #{why}")
    emit(:lost, %{duration: lasted(state)}, %{why: why}, state)
    # Not if a call that was lost has removed it.
    paused? = Native.pool_pause(state.pool, state.key)
    state = if paused?, do: state, else: %{state | key: nil}
    %{forget(not_ready(why, state)) | phase: :connecting}
  end

  defp eject(why, state) do
    Logger.warning("endpoint #{state.id} takes no calls for a while: #{why}")
    emit(:ejected, %{duration: lasted(state)}, %{why: why}, state)
    state = report(%{leave(not_ready(why, state)) | phase: :ejected})
    send(state.manager, {:endpoint_ejected, self()})
    state
  end

  # An attempt to become ready has failed.
  defp failed(why, phase \\ :connecting, state) do
    attempt = state.attempt + 1
    emit(:failed, %{attempt: attempt}, %{why: why}, state)
    state = state |> leave() |> give_up()
    connect_later(%{state | phase: phase, error: why, attempt: attempt})
  end

  # The connection of an endpoint that was ejected may still have calls.
  defp give_up(%{phase: :ejected} = state), do: forget(state)
  defp give_up(state), do: close(state)

  defp connect_later(state) do
    wait = backoff(state)
    Process.send_after(self(), :connect, wait)
    message = "endpoint #{state.id}: #{state.error}"
    log = StartLog.failed(state.log, :error, state.id, message, state.attempt, wait)
    report(%{state | log: log})
  end

  defp backoff(%{attempt: attempt, options: %{reconnect_backoff: {first, longest}}}) do
    wait = min(first * Integer.pow(2, min(max(attempt - 1, 0), 20)), longest)
    # Clients that have lost a server together must not come back together.
    wait - :rand.uniform(div(wait, 4) + 1) + 1
  end

  # What still runs on the connection goes on.
  defp forget(%{channel: nil} = state), do: %{state | closed: nil, awaited: nil}

  defp forget(%{channel: channel, key: key, earlier: earlier} = state) do
    earlier = Enum.take([{key, channel} | earlier], @earlier)
    %{state | channel: nil, closed: nil, awaited: nil, earlier: earlier}
  end

  # A connection that nobody has closes once its last call has ended.
  defp drop_idle(%{earlier: []} = state), do: state

  defp drop_idle(%{key: key, earlier: earlier} = state) do
    if busy?(state),
      do: state,
      else: %{state | earlier: Enum.reject(earlier, &match?({^key, _channel}, &1))}
  end

  # Ends what still runs on the connection.
  defp close(%{channel: nil} = state), do: %{state | closed: nil, awaited: nil}

  defp close(state) do
    Native.close(state.channel)
    %{state | channel: nil, closed: nil, awaited: nil}
  end

  defp checked({:ok, check}, state), do: %{state | check: check}
  defp checked({:dead, why}, %{phase: :ready} = state), do: eject(why, state)
  defp checked({:dead, _why}, state), do: state

  # Calls wait for an endpoint that was ready as long as a connection may take. Then it counts as failed, and if
  # all have failed, calls return the reason at once.
  defp report(%{phase: phase, error: error} = state) do
    failed? = phase in [:connecting, :draining] and error != nil and not may_return?(state)
    send(state.manager, {:endpoint, self(), %{phase: phase, error: error, failed: failed?}})
    state
  end

  defp may_return?(%{ready_until: nil}), do: false
  defp may_return?(state), do: now() - state.ready_until < state.options.connect_timeout

  defp drained(until, state) do
    Native.pool_drain(state.pool, state.key)
    await_drained(until, state)
    drop_idle(state)
  end

  defp await_drained(until, state) do
    left = until - now()

    receive do
      :snakepit_drained -> :ok
    after
      left |> min(@drain_poll) |> max(0) ->
        cond do
          not busy?(state) -> :ok
          left > 0 -> await_drained(until, state)
          # The calls that are lost learn the cause.
          true -> state.channel && Native.set_exit_cause(state.channel, stopped_text())
        end
    end
  end

  # The dispatcher counts no calls of connections whose endpoint has left it. They have the same time.
  defp end_by(_until, []), do: :ok

  defp end_by(until, connections) do
    case until - now() do
      left when left > 0 ->
        spawn(fn ->
          Process.sleep(left)
          end_by(until, connections)
        end)

      _over ->
        for {_key, channel} <- connections do
          Native.set_exit_cause(channel, stopped_text())
          Native.close(channel)
        end
    end
  end

  defp busy?(state) do
    {_queued, places} = Native.pool_snapshot(state.pool)
    Enum.any?(places, fn {key, in_flight, _draining} -> key == state.key and in_flight > 0 end)
  end

  defp stopped_text, do: "the pool was stopped, and the call continued past :shutdown_timeout"

  # In native units.
  defp lasted(state), do: System.convert_time_unit(now() - state.since, :millisecond, :native)

  defp emit(event, measurements, metadata, state) do
    named = %{pool: state.options.name, worker_id: state.id, endpoint: state.address}
    Telemetry.endpoint(event, measurements, Map.merge(metadata, named))
  end

  defp description(state, info), do: %{os_pid: nil, key: state.key, info: info}

  defp now, do: System.monotonic_time(:millisecond)
end
