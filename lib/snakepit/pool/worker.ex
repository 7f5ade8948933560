defmodule Snakepit.Pool.Worker do
  @moduledoc false
  # One worker over stdin and stdout: its OS process and the calls that it runs. Each call has a
  # lease, which returns to the pool when its response has arrived, whether or not its caller
  # still waits.
  use GenServer, restart: :temporary

  alias Snakepit.Native
  alias Snakepit.Pool.{Membership, OSProcess}
  alias Snakepit.Stdio.Message
  alias Snakepit.Telemetry
  alias Snakepit.TwoWay.Answer

  # How long a process may continue after it has closed its standard input or output, in ms.
  @exit_grace 5_000
  # How many reports of a call's progress are passed on in a second, and how many events of a worker for
  # telemetry. One of Snakepit's own workers sends about half as many.
  @progress_per_second 20
  @events_per_second 2_000
  # The size of a message besides its value: for example an error's text and traceback.
  @envelope_bytes 1_048_576

  # It contains data of callers.
  @derive {Inspect, only: [:membership]}
  defstruct [:membership, :window, takes_tools: false, calls: %{}, asked: %{}]

  @doc "Options: `:id`, `:slot`, `:held`, `:pool` (native), `:manager`, `:options` (the pool's)."
  def start_link(worker), do: Membership.start_link(__MODULE__, worker)

  @impl true
  def init(given), do: {:ok, %__MODULE__{membership: Membership.new(given)}}

  @impl true
  def handle_continue(:start, %{membership: membership} = state) do
    limit = membership.options.max_message_size + @envelope_bytes

    case Membership.launch(membership, nil, [], messages: limit) do
      {:ok, membership} ->
        {:noreply, request(:ready, "$health", %{}, %{state | membership: membership})}

      {:error, message} ->
        {:stop, Membership.start_failed(membership, message), state}
    end
  end

  @impl true
  def handle_call({:describe, _what, _timeout}, _from, %{membership: %{key: nil}} = state),
    do: {:reply, Membership.description(state.membership, nil), state}

  def handle_call({:describe, what, timeout}, from, state) do
    timer = Process.send_after(self(), {:describe_timeout, from}, timeout)
    args = if what == :commands, do: %{commands: true}, else: %{}
    {:noreply, request({:describe, from, timer}, "$info", args, state)}
  end

  @impl true
  # The manager monitors this process now.
  def handle_info(:start, state), do: {:noreply, state, {:continue, :start}}

  def handle_info({:call, ref, call}, %{membership: %{exit_text: text}} = state)
      when text != nil do
    send(ref, {call.tag, :not_started})
    {:noreply, state}
  end

  def handle_info({:call, ref, %{asks: asks} = call}, %{takes_tools: false} = state)
      when asks != nil do
    send(ref, {call.tag, :no_tools})
    {:noreply, state}
  end

  def handle_info({:call, ref, %{left: left} = call}, state) do
    case OSProcess.write(state.membership.process, call.message) do
      :ok ->
        timer = left && Process.send_after(self(), {:deadline, call.id}, left)
        monitor = Process.monitor(call.caller)
        asks = call.asks && Process.monitor(call.asks)
        own = %{ref: ref, timer: timer, monitor: monitor, asks_monitor: asks, open_asks: %{}}
        call = call |> Map.drop([:message]) |> Map.merge(own)
        {:noreply, put_in(state.calls[call.id], call)}

      :closed ->
        Membership.pause(state.membership)
        send(ref, {call.tag, :not_started})
        {:noreply, state}
    end
  end

  def handle_info(
        {ref, {:message, message}},
        %{membership: %{process: %{messages: %{ref: ref}}}} = state
      ) do
    OSProcess.handled(state.membership.process)
    id = Native.response_id(message)

    case state do
      %{calls: %{^id => call}} ->
        {:noreply, answered(call, message, %{state | calls: Map.delete(state.calls, id)})}

      %{asked: %{^id => asked}} ->
        {:noreply, replied(asked, message, %{state | asked: Map.delete(state.asked, id)})}

      _ ->
        {:noreply, notified(message, state)}
    end
  end

  def handle_info(
        {ref, {:too_large, size}},
        %{membership: %{process: %{messages: %{ref: ref}}}} = state
      ) do
    limit = state.membership.options.max_message_size

    why =
      "it wrote a message of #{size} bytes to its standard output (:max_message_size is #{limit})"

    {:noreply, kill(why, state)}
  end

  def handle_info({ref, :closed}, %{membership: %{process: %{messages: %{ref: ref}}}} = state) do
    next(Membership.messages_closed(state.membership), closed("output", state))
  end

  def handle_info(
        {ref, :input_closed},
        %{membership: %{process: %{messages: %{ref: ref}}}} = state
      ),
      do: {:noreply, closed("input", state)}

  # One that was asked to exit has its time for that.
  def handle_info({:closed, which}, %{membership: %{exit_text: nil, leaving: leaving}} = state)
      when leaving != :exiting,
      do: {:noreply, kill("it closed its standard #{which}", state)}

  # The answer of a tool, which the worker may wait for no longer.
  def handle_info({:answer, call_id, ask_id, message}, state) do
    case state.calls do
      %{^call_id => %{open_asks: open} = call} when is_map_key(open, ask_id) ->
        OSProcess.write(state.membership.process, message)
        {:noreply, put_in(state.calls[call_id], %{call | open_asks: Map.delete(open, ask_id)})}

      _ ->
        {:noreply, state}
    end
  end

  # A call is cancelled once, whatever comes first: its deadline, its caller, or the caller's exit.
  def handle_info({:cancel, id}, state), do: {:noreply, cancel_waited(id, nil, state)}
  def handle_info({:deadline, id}, state), do: {:noreply, cancel_waited(id, :timeout, state)}

  # The monitor of a caller: besides that of the membership, this process has monitors only for
  # calls.
  def handle_info({:DOWN, monitor, :process, caller, reason}, state) do
    case Enum.find(state.calls, fn {_id, call} -> monitor in [call.monitor, call.asks_monitor] end) do
      {_id, %{ref: ref, monitor: ^monitor} = call} when ref != nil ->
        {:noreply, cancel(call, nil, state)}

      # It ends before the call only if it was killed.
      {_id, %{ref: ref} = call} when ref != nil ->
        {:noreply, cancel(call, :no_answers, state)}

      {_id, _cancelled} ->
        {:noreply, state}

      nil ->
        lifecycle({:DOWN, monitor, :process, caller, reason}, state)
    end
  end

  # A worker in Python answers nothing while a command holds Python's lock. That may be an earlier
  # command, behind which this one has not begun: then the worker is not killed. If it never answers
  # again, its health checks say so.
  def handle_info({:grace, id}, state) when is_map_key(state.calls, id) do
    earlier? = Enum.any?(state.calls, fn {other, call} -> other < id and call.ref != nil end)

    if state.calls[id].answers? or not earlier? do
      grace = state.membership.options.kill_grace
      why = "a cancelled call continued for #{grace} ms (:kill_grace)"
      {:noreply, %{state | membership: Membership.kill_for_call(state.membership, why)}}
    else
      {:noreply, start_grace(id, state)}
    end
  end

  def handle_info(:check_health, state) do
    {id, _request_id} = Native.new_call()
    membership = Membership.check_health(state.membership, fn _timeout -> id end)
    state = %{state | membership: membership}

    # Asks only if no other question is pending.
    case membership.check do
      %{pending: ^id} -> {:noreply, request(id, :check, "$health", %{}, state)}
      _ -> {:noreply, state}
    end
  end

  def handle_info({:describe_timeout, from}, state) do
    case Enum.find(state.asked, &match?({_id, {:describe, ^from, _timer}}, &1)) do
      nil ->
        {:noreply, state}

      {id, _asked} ->
        GenServer.reply(from, Membership.description(state.membership, nil))
        {:noreply, %{state | asked: Map.put(state.asked, id, nil)}}
    end
  end

  def handle_info({:snakepit_end_session, id, generation}, state) do
    {:noreply, request(nil, "$end_session", Message.session(id, generation), state)}
  end

  def handle_info(message, state), do: lifecycle(message, state)

  @impl true
  def terminate(_reason, %{membership: membership} = state) do
    answer_all(state, Membership.end_text(membership))
    Membership.stopped(membership)
  end

  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)
  def format_status(status), do: Membership.without_secrets(status)

  defp lifecycle(message, state),
    do: message |> Membership.handle_info(state.membership) |> next(state)

  defp next({:noreply, membership}, state), do: {:noreply, %{state | membership: membership}}

  defp next({:cancel_calls, membership}, state),
    do: {:noreply, cancel_all(%{state | membership: membership})}

  defp next({:stop, membership}, state),
    do: {:stop, Membership.stop_reason(membership), %{state | membership: membership}}

  # Its process has usually exited, and soon reports how.
  defp closed(which, state) do
    Membership.pause(state.membership)
    Process.send_after(self(), {:closed, which}, @exit_grace)
    state
  end

  defp kill(why, state), do: %{state | membership: Membership.kill(state.membership, why)}

  # Sends a question to the worker itself; `asked` says who gets the answer.
  defp request(asked, command, args, state) do
    {id, _request_id} = Native.new_call()
    request(id, asked, command, args, state)
  end

  defp request(id, asked, command, args, state) do
    {:ok, message} = Message.request(id, command, args)
    OSProcess.write(state.membership.process, message)
    put_in(state.asked[id], asked)
  end

  defp notified(message, state) do
    case Message.notice(message) do
      :draining ->
        %{state | membership: Membership.announced_draining(state.membership)}

      {id, event} ->
        reported(event, state.calls[id], state)

      nil ->
        text = String.slice(inspect(message, limit: 100, printable_limit: 100), 0, 200)
        kill("it wrote a message to its standard output that answers no request: #{text}", state)
    end
  end

  # What the command of a call reports; nobody takes it any more once its caller does not wait.
  defp reported({:progress, reported}, %{progress: true, ref: ref} = call, state)
       when ref != nil do
    {allowed, window} = allowed(call[:window], @progress_per_second)
    if allowed, do: send(ref, {:snakepit_progress, call.tag, reported})
    put_in(state.calls[call.id], Map.put(call, :window, window))
  end

  defp reported({:telemetry, event}, %{ref: ref} = call, state) when ref != nil do
    {allowed, window} = allowed(state.window, @events_per_second)

    if allowed and Telemetry.available?() do
      about = Map.take(call, [:command, :request_id, :session_id])
      event = event |> Map.merge(about) |> Map.put(:worker_id, state.membership.id)
      send(state.membership.manager, {:snakepit_event, event})
    end

    %{state | window: window}
  end

  defp reported({:ask, ask}, %{asks: asks, open_asks: open, ref: ref} = call, state)
       when asks != nil and ref != nil do
    if map_size(open) < call.max_asks and not is_map_key(open, ask.id) do
      limit = state.membership.options.max_message_size
      from = Answer.stdio(self(), call.id, call.holding, limit)
      send(asks, {:snakepit_asks, from, [ask]})
      put_in(state.calls[call.id].open_asks[ask.id], true)
    else
      kill("it asked more often at once than a call allows (:max_asks)", state)
    end
  end

  defp reported({:withdraw, ask_id}, %{asks: asks, ref: ref} = call, state)
       when asks != nil and ref != nil do
    send(asks, {:snakepit_asks_withdrawn, nil, [ask_id]})
    update_in(state.calls[call.id].open_asks, &Map.delete(&1, ask_id))
  end

  defp reported(_event, _call, state), do: state

  # Whether one more message is allowed in the second that began at `since`.
  defp allowed(window, per_second) do
    now = System.monotonic_time(:millisecond)

    case window do
      {since, count} when now - since < 1_000 -> {count < per_second, {since, count + 1}}
      _over -> {true, {now, 1}}
    end
  end

  # It takes no more calls.
  defp replied(:ready, _message, %{membership: %{leaving: leaving}} = state) when leaving != nil,
    do: %{state | membership: Membership.started_too_late(state.membership)}

  defp replied(:ready, message, state) do
    case Message.result(message) do
      {:ok, %{"healthy" => false} = health} ->
        kill("it reported that it is not healthy: #{inspect(health)}", state)

      # A worker that does not know the command has answered as well.
      _ ->
        health = result_or(message, %{})
        state = %{state | takes_tools: health["takes_tools"] == true}
        %{state | membership: Membership.join(state.membership, nil, health)}
    end
  end

  defp replied(nil, _message, state), do: state

  # If the call has not ended, it has begun.
  defp replied({:cancel, id}, _message, state) when is_map_key(state.calls, id) do
    unless Process.cancel_timer(state.calls[id].timer) do
      receive do
        {:grace, ^id} -> :ok
      after
        0 -> :ok
      end
    end

    start_grace(id, put_in(state.calls[id].answers?, true))
  end

  defp replied({:cancel, _id}, _message, state), do: state

  defp replied(:check, message, state) do
    # A worker that does not know the command has answered as well.
    health = result_or(message, %{})
    %{state | membership: Membership.health_answered(state.membership, health)}
  end

  defp replied({:describe, from, timer}, message, state) do
    Process.cancel_timer(timer)
    GenServer.reply(from, Membership.description(state.membership, result_or(message, %{})))
    state
  end

  defp result_or(message, default) do
    case Message.result(message) do
      {:ok, result} -> result
      {:error, _failure} -> default
    end
  end

  defp answered(call, message, state) do
    Process.demonitor(call.monitor, [:flush])
    if call.timer, do: Process.cancel_timer(call.timer)
    end_asks(call)
    if call.ref, do: send(call.ref, {call.tag, answer(message, state)})
    Native.release(call.lease)
    unless call.ref, do: handler_exited(call, Message.handler_exit(message), state)
    state
  end

  defp end_asks(%{asks: nil}), do: :ok

  defp end_asks(%{asks: asks, asks_monitor: monitor}) do
    Process.demonitor(monitor, [:flush])
    send(asks, :snakepit_asks_end)
  end

  # A worker whose time is over cancels the running calls.
  defp answer(message, %{membership: %{leaving: nil}}), do: {:ok, message}

  defp answer(message, _state) do
    case Message.result(message) do
      {:error, {:cancelled, _text, _details}} -> {:crashed, Membership.stopped_text()}
      _ -> {:ok, message}
    end
  end

  defp cancel_waited(id, answer, state) do
    case state.calls do
      %{^id => %{ref: ref} = call} when ref != nil -> cancel(call, answer, state)
      _ -> state
    end
  end

  # No caller waits for the call any more. Its place becomes free only when it has ended.
  defp cancel(call, answer, state) do
    end_asks(call)
    if answer, do: send(call.ref, {call.tag, answer})
    if call.timer, do: Process.cancel_timer(call.timer)
    call = Map.merge(call, %{ref: nil, since: System.monotonic_time(), answers?: false})
    state = start_grace(call.id, put_in(state.calls[call.id], call))
    request({:cancel, call.id}, "$cancel", %{id: call.id}, state)
  end

  defp start_grace(id, state) do
    timer = Process.send_after(self(), {:grace, id}, state.membership.options.kill_grace)
    put_in(state.calls[id].timer, timer)
  end

  defp cancel_all(state) do
    for({_id, %{ref: ref} = call} when ref != nil <- state.calls, do: call)
    |> Enum.reduce(state, &cancel(&1, {:crashed, Membership.stopped_text()}, &2))
  end

  defp handler_exited(call, how, state) do
    Telemetry.call_cancelled(System.monotonic_time() - call.since, %{
      how: how,
      command: call.command,
      request_id: call.request_id,
      pool: state.membership.options.name,
      worker_id: state.membership.id
    })
  end

  # Its calls end with it. If a worker exits in an orderly way, a caller without an answer knows
  # that the worker never took its call.
  defp answer_all(state, why) do
    for {_id, call} <- state.calls do
      end_asks(call)

      if call.ref,
        do: send(call.ref, {call.tag, {:crashed, why}}),
        else: handler_exited(call, :killed, state)

      Native.release(call.lease)
    end

    for {_id, {:describe, from, _timer}} <- state.asked,
        do: GenServer.reply(from, Membership.description(state.membership, nil))
  end
end
