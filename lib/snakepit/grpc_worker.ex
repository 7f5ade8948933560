defmodule Snakepit.GRPCWorker do
  @moduledoc false
  # One worker that serves gRPC: its OS process, its channel, and its membership in the pool. No
  # request passes through this process. It lives as long as its OS process; the pool starts the
  # next one.
  use GenServer, restart: :temporary

  require Logger

  alias Snakepit.{Codec, Native}
  alias Snakepit.GRPC.{CallsReader, Channel, Listener}
  alias Snakepit.Pool.{Membership, PoolEvents}

  # EX_UNAVAILABLE of sysexits.h, with which a worker reports that it cannot run a server.
  @no_server 69

  # How long another connection to its server may take, in ms; how long it waits after an attempt that has failed; and
  # how long it tries.
  @connect_timeout 5_000
  @reconnect_after 100
  @reconnect_within 15_000
  # If a server accepts no calls on connections that are younger than this, it serves nobody, in
  # ms.
  @shortest_connection 100

  # How long to wait for the exit status of a process after its connection was lost, in ms.
  @exit_grace 5_000

  # It contains secrets.
  @derive {Inspect, only: [:membership]}
  defstruct [
    :membership,
    :runtime_dir,
    :listener,
    :address,
    # What the next step waits for: `{step, ref}`, where `:connect` and `:health` wait for an answer, and `:wait` for a timer.
    # While the worker serves it is nil.
    :awaited,
    :closed,
    :channel,
    :reader,
    # A connection that has served sets it when it ends.
    :reconnect_until,
    asked: %{}
  ]

  @doc "Options: `:id`, `:slot`, `:held`, `:pool` (native), `:manager`, `:runtime_dir`, `:options` (the pool's)."
  def start_link(worker), do: Membership.start_link(__MODULE__, worker)

  @impl true
  def init({_supervisor, worker} = given) do
    membership = Membership.new(given)
    {:ok, reader} = CallsReader.start_link()
    {:ok, %__MODULE__{membership: membership, reader: reader, runtime_dir: worker.runtime_dir}}
  end

  @impl true
  def handle_continue(:start, %{membership: membership} = state) do
    with {:ok, listener} <- Listener.new(membership.options, state.runtime_dir),
         %{address: address, token: token} = listener,
         env = Listener.env(listener),
         {:ok, membership} <- Membership.launch(membership, address, env, token: token) do
      {:noreply, %{state | membership: membership, listener: listener}}
    else
      {:error, message} -> {:stop, Membership.start_failed(membership, message), state}
    end
  end

  @impl true
  def handle_call({:describe, _what, _timeout}, _from, %{membership: %{key: nil}} = state),
    do: {:reply, Membership.description(state.membership, nil), state}

  def handle_call({:describe, what, timeout}, from, state) do
    {:ok, ref} = Channel.start_info(state.channel, timeout, what == :commands)
    {:noreply, %{state | asked: Map.put(state.asked, ref, from)}}
  end

  @impl true
  # The manager monitors this process now.
  def handle_info(:start, state), do: {:noreply, state, {:continue, :start}}

  def handle_info(
        {ref, {:announced, text}},
        %{membership: %{process: %{output: %{ref: ref}}}} = state
      ),
      do: {:noreply, announced(text, state)}

  def handle_info({ref, {:ok, channel}}, %{awaited: {:connect, ref}} = state) do
    timeout = connect_timeout(state)
    {:ok, health} = Channel.start_health(channel, state.membership.id, timeout)
    CallsReader.read(state.reader, channel)
    connection = %{channel: channel, closed: ref}
    {:noreply, Map.merge(%{state | awaited: {:health, health}}, connection)}
  end

  # It starts no more calls.
  def handle_info(
        {ref, _answer},
        %{awaited: {:health, ref}, membership: %{leaving: leaving}} = state
      )
      when leaving != nil,
      do: {:noreply, %{state | awaited: nil}}

  def handle_info({ref, {:ok, %{"healthy" => true} = health}}, %{awaited: {:health, ref}} = state) do
    %{membership: membership, channel: channel} = state = %{state | awaited: nil}

    cond do
      Membership.starting?(membership) ->
        {:noreply, %{state | membership: Membership.join(membership, channel, health)}}

      Membership.resume(membership, channel) ->
        {:noreply, state}

      true ->
        {:noreply, lost(state)}
    end
  end

  def handle_info({ref, {:ok, health}}, %{awaited: {:health, ref}} = state),
    do: {:noreply, kill("it reported that it is not healthy: #{inspect(health)}", state)}

  def handle_info({ref, {:error, failure}}, %{awaited: {_step, ref}} = state) do
    %{membership: membership} = state

    cond do
      Membership.starting?(membership) ->
        {:noreply, kill(Codec.error(failure).message, state)}

      membership.key ->
        {:noreply, reconnect(Codec.error(failure).message, state)}

      true ->
        {:noreply, state}
    end
  end

  def handle_info({:timeout, ref, :reconnect}, %{awaited: {:wait, ref}} = state) do
    %{key: key, leaving: leaving} = state.membership

    if key != nil and leaving == nil,
      do: {:noreply, connect(state.address, state)},
      else: {:noreply, %{state | awaited: nil}}
  end

  # It is connecting again.
  def handle_info(:check_health, %{awaited: awaited} = state) when awaited != nil,
    do: {:noreply, %{state | membership: Membership.skip_check(state.membership)}}

  def handle_info(:check_health, state) do
    ask = fn timeout ->
      {:ok, ref} = Channel.start_health(state.channel, state.membership.id, timeout)
      ref
    end

    {:noreply, %{state | membership: Membership.check_health(state.membership, ask)}}
  end

  def handle_info({ref, answer}, %{membership: %{check: %{pending: ref}} = membership} = state) do
    membership =
      case answer do
        {:ok, health} -> Membership.health_answered(membership, health)
        {:error, failure} -> Membership.health_failed(membership, Codec.error(failure))
      end

    {:noreply, %{state | membership: membership}}
  end

  def handle_info({ref, answer}, %{asked: asked} = state) when is_map_key(asked, ref) do
    {from, asked} = Map.pop!(asked, ref)
    info = with {:ok, info} <- answer, do: info
    info = if is_map(info), do: info
    GenServer.reply(from, Membership.description(state.membership, info))
    {:noreply, %{state | asked: asked}}
  end

  # A worker that is draining closes the connection when it is ready.
  def handle_info({ref, {:closed, _}}, %{closed: ref, membership: %{leaving: leaving}} = state)
      when leaving != nil,
      do: {:noreply, state}

  # It is connecting again already.
  def handle_info({ref, {:closed, _}}, %{closed: ref, awaited: {step, _}} = state)
      when step in [:connect, :wait],
      do: {:noreply, state}

  # Its connection accepts no more calls. A server may do so only because the connection is old.
  def handle_info({ref, {:closed, lasted}}, %{closed: ref} = state) do
    state = %{state | membership: Membership.reset_check(state.membership)}

    cond do
      not Membership.pause(state.membership) ->
        {:noreply, lost(state)}

      state.awaited == nil and lasted >= @shortest_connection ->
        {:noreply, connect(state.address, %{state | reconnect_until: now() + @reconnect_within})}

      true ->
        {:noreply, reconnect("its connection lasted #{lasted} ms", state)}
    end
  end

  def handle_info(:connection_lost, %{membership: %{exit_text: nil}} = state),
    do: {:noreply, kill("its connection was lost", state)}

  # Its connection is lost, with the replies that the process had read.
  def handle_info({:EXIT, reader, reason}, %{reader: reader} = state),
    do:
      {:noreply, kill("the process that reads its replies has exited: #{inspect(reason)}", state)}

  def handle_info({:snakepit_handler_exited, exit}, state) do
    PoolEvents.handler_exited(exit, state.membership.options.name, state.membership.id)
    {:noreply, state}
  end

  def handle_info(message, state) do
    {next, membership} = Membership.handle_info(message, state.membership)
    next(next, %{state | membership: membership})
  end

  @impl true
  def terminate(_reason, %{membership: membership} = state) do
    # Fails the calls that it has not answered, with this cause.
    if state.channel, do: Native.set_exit_cause(state.channel, Membership.end_text(membership))
    Membership.stopped(membership)
  end

  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)
  def format_status(status), do: Membership.without_secrets(status)

  defp next(:noreply, state), do: {:noreply, state}

  defp next(:cancel_calls, state) do
    Native.set_exit_cause(state.channel, Membership.stopped_text())
    {:noreply, %{state | membership: Membership.ask_to_exit(state.membership)}}
  end

  defp next(:stop, %{membership: membership} = state) do
    case Membership.stop_reason(membership) do
      {:shutdown, {how, text}}
      when how in [:start_failed, :terminated] and membership.exit_status == @no_server ->
        {:stop, {:shutdown, {:no_grpc, text}}, state}

      reason ->
        {:stop, reason, state}
    end
  end

  defp announced("draining", state),
    do: %{state | membership: Membership.announced_draining(state.membership)}

  defp announced(address, %{membership: %{leaving: nil} = membership} = state),
    do: if(Membership.starting?(membership), do: connect(address, state), else: state)

  defp announced(_address, state),
    do: %{state | membership: Membership.started_too_late(state.membership)}

  defp connect(address, %{membership: %{options: options}} = state) do
    given = [
      max_message_size: options.max_message_size,
      timeout: connect_timeout(state),
      earlier: state.channel
    ]

    case Channel.start_connect(address, given ++ Listener.connect_options(state.listener)) do
      {:ok, ref} -> %{state | address: address, awaited: {:connect, ref}}
      {:error, error} -> kill(error.message, state)
    end
  end

  defp connect_timeout(%{membership: membership}) do
    if Membership.starting?(membership),
      do: membership.options.startup_timeout,
      else: @connect_timeout
  end

  # It needs no connection any more.
  defp reconnect(_why, %{membership: %{leaving: leaving}} = state) when leaving != nil,
    do: %{state | awaited: nil}

  # Tries again in a while: meanwhile a process that has exited reports that.
  defp reconnect(why, %{membership: membership} = state) do
    until = state.reconnect_until || now() + @reconnect_within

    if now() < until do
      # No other attempt takes the message of this timer for its own.
      timer = :erlang.start_timer(@reconnect_after, self(), :reconnect)
      %{state | awaited: {:wait, timer}, reconnect_until: until}
    else
      Logger.warning("worker #{membership.id} is replaced, because it cannot be reached: #{why}")
      %{state | awaited: nil, membership: Membership.drain(membership)}
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  # A process that has exited will report its status in a moment.
  defp lost(state) do
    Process.send_after(self(), :connection_lost, @exit_grace)
    %{state | membership: Membership.leave(state.membership)}
  end

  defp kill(why, state), do: %{state | membership: Membership.kill(state.membership, why)}
end
