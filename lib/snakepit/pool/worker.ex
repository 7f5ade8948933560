defmodule Snakepit.Pool.Worker do
  @moduledoc false
  # One worker that is spoken to over stdin and stdout: its operating-system process and the calls it
  # runs. Each call has a lease, which goes back to the pool when its response has come, whoever still
  # waits for that.
  use GenServer, restart: :temporary

  import Snakepit.Pool.Membership

  alias Snakepit.Native
  alias Snakepit.Pool.{HealthCheck, OSProcess}
  alias Snakepit.Stdio.Message
  alias Snakepit.Telemetry

  # How long the end of the output may be on its way once the process is gone, in ms.
  @output_grace 1_000
  # What a message has beside its value: an error's text and traceback, for one.
  @envelope_bytes 1_048_576

  # It has what its callers have sent in it.
  @derive {Inspect, only: [:id, :key, :why]}
  defstruct [
    :id,
    :held,
    :pool,
    :manager,
    :options,
    :process,
    :key,
    :timer,
    :why,
    :ended,
    :check,
    :leaving,
    :tail,
    closed: false,
    terminated: false,
    calls: %{},
    asked: %{}
  ]

  @doc "Options: `:id`, `:held`, `:pool` (native), `:manager`, `:options` (the pool's)."
  def start_link(worker), do: GenServer.start_link(__MODULE__, worker)

  @impl true
  def init(worker) do
    Process.flag(:trap_exit, true)
    {:ok, struct(__MODULE__, worker)}
  end

  @impl true
  def handle_continue(:start, state) do
    worker = %{id: state.id, listen: nil, options: state.options}

    limit = state.options.max_message_size + @envelope_bytes

    case OSProcess.start(worker, [], messages: limit, held: state.held) do
      {:ok, process} ->
        timer = Process.send_after(self(), :startup_timeout, state.options.startup_timeout)
        {:noreply, request(:ready, "$health", %{}, %{state | process: process, timer: timer})}

      {:error, message} ->
        stop({:start_failed, OSProcess.start_error(state, message)}, state)
    end
  end

  @impl true
  def handle_call({:describe, _what, _timeout}, _from, %{key: nil} = state),
    do: {:reply, description(nil, state), state}

  def handle_call({:describe, what, timeout}, from, state) do
    timer = Process.send_after(self(), {:describe_timeout, from}, timeout)
    args = if what == :commands, do: %{commands: true}, else: %{}
    {:noreply, request({:describe, from, timer}, "$info", args, state)}
  end

  @impl true
  # The manager watches this process now.
  def handle_info(:start, state), do: {:noreply, state, {:continue, :start}}

  def handle_info({:call, ref, _call}, %{ended: ended} = state) when ended != nil do
    send(ref, {ref, :not_started})
    {:noreply, state}
  end

  def handle_info({:call, ref, %{left: left} = call}, state) do
    timer = left && Process.send_after(self(), {:deadline, call.id}, left)
    monitor = Process.monitor(call.caller)
    OSProcess.write(state.process, call.message)
    call = call |> Map.drop([:message]) |> Map.merge(%{ref: ref, timer: timer, monitor: monitor})
    {:noreply, put_in(state.calls[call.id], call)}
  end

  def handle_info({ref, {:message, message}}, %{process: %{messages: %{ref: ref}}} = state) do
    OSProcess.handled(state.process)
    id = Native.response_id(message)

    case state do
      %{calls: %{^id => call}} ->
        {:noreply, answered(call, message, %{state | calls: Map.delete(state.calls, id)})}

      %{asked: %{^id => asked}} ->
        {:noreply, told(asked, message, %{state | asked: Map.delete(state.asked, id)})}

      _ ->
        {:noreply, notified(message, state)}
    end
  end

  def handle_info({ref, {:too_large, size}}, %{process: %{messages: %{ref: ref}}} = state) do
    limit = state.options.max_message_size

    why =
      "it wrote a message of #{size} bytes to its standard output (:max_message_size is #{limit})"

    {:noreply, kill(why, state)}
  end

  def handle_info({ref, :closed}, %{process: %{messages: %{ref: ref}}} = state) do
    unless state.ended, do: Process.send_after(self(), :output_closed, @output_grace)
    stop_if_complete(%{state | closed: true})
  end

  def handle_info(:output_closed, %{ended: nil} = state),
    do: {:noreply, kill("it closed its standard output", state)}

  def handle_info({port, {:exit_status, status}}, %{process: %{port: port}} = state) do
    state = %{state | terminated: OSProcess.terminated?(status)}
    ended(OSProcess.status_text(status), state)
  end

  def handle_info({:EXIT, port, reason}, %{process: %{port: port}, ended: nil} = state) do
    ended("it takes no more requests (#{inspect(reason)})", state)
  end

  def handle_info({:EXIT, port, _reason}, state) when is_port(port), do: {:noreply, state}
  def handle_info({:EXIT, _from, reason}, state), do: {:stop, reason, state}

  def handle_info({ref, {:ended, tail}}, %{process: %{output: %{ref: ref}}} = state) do
    stop_if_complete(%{state | tail: tail})
  end

  def handle_info(:output_timeout, state), do: stop_ended(state)

  def handle_info({:deadline, id}, state) do
    case state.calls do
      %{^id => call} -> {:noreply, abandon(call, :timeout, state)}
      _ -> {:noreply, state}
    end
  end

  def handle_info({:DOWN, monitor, :process, _caller, _reason}, state) do
    case Enum.find(state.calls, fn {_id, call} -> call.monitor == monitor end) do
      {_id, %{ref: ref} = call} when ref != nil -> {:noreply, abandon(call, nil, state)}
      _ -> {:noreply, state}
    end
  end

  def handle_info({:grace, id}, state) when is_map_key(state.calls, id) do
    why = "a cancelled call went on for #{state.options.kill_grace} ms (:kill_grace)"
    {:noreply, kill_ready(why, state)}
  end

  def handle_info(:startup_timeout, %{timer: timer} = state) when timer != nil do
    message = "it was not ready within #{state.options.startup_timeout} ms (:startup_timeout)"
    {:noreply, kill(message, state)}
  end

  def handle_info(:check_health, %{key: key, leaving: leaving} = state)
      when key == nil or leaving != nil,
      do: {:noreply, state}

  def handle_info(:check_health, state) do
    {id, _request_id} = Native.new_call()
    result = HealthCheck.tick(state.check, fn _timeout -> id end)
    # The question is on its way only if no other is.
    case checked(result, state) do
      %{check: %{pending: ^id}} = state ->
        {:noreply, request(id, :check, "$health", %{}, state)}

      state ->
        {:noreply, state}
    end
  end

  def handle_info({:describe_timeout, from}, state) do
    case Enum.find(state.asked, &match?({_id, {:describe, ^from, _timer}}, &1)) do
      nil ->
        {:noreply, state}

      {id, _asked} ->
        GenServer.reply(from, description(nil, state))
        {:noreply, %{state | asked: Map.put(state.asked, id, nil)}}
    end
  end

  # Its successor is ready.
  def handle_info(:retire, state), do: {:noreply, drain(state)}
  def handle_info(:snakepit_drained, state), do: {:noreply, ask_to_exit(state)}
  def handle_info(:drain_timeout, state), do: {:noreply, abandon_all(state)}

  def handle_info(:exit_timeout, %{ended: nil} = state),
    do: {:noreply, kill("it did not exit after SIGTERM", state)}

  def handle_info({:snakepit_end_session, id, generation}, state) do
    args = %{session_id: id, session_generation: generation}
    {:noreply, request(nil, "$end_session", args, state)}
  end

  def handle_info({:snakepit_kill, why}, state), do: {:noreply, kill_ready(why, state)}

  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    if state.process do
      left = if state.ended, do: state, else: shut_down(state)
      answer_all(left, left.ended || stopped_text())
      OSProcess.stopped(state.process, state.ended || :shutdown)
    end
  end

  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)
  def format_status(status), do: without_secrets(status)

  defp shut_down(state) do
    state = stop_serving(state, &handle_info/2)
    OSProcess.exited_and_logged(state.process)
    leave(state)
  end

  # Asks the worker itself; `asked` is who is to be told.
  defp request(asked, command, args, state) do
    {id, _request_id} = Native.new_call()
    request(id, asked, command, args, state)
  end

  defp request(id, asked, command, args, state) do
    {:ok, message} = Message.request(id, command, args)
    OSProcess.write(state.process, message)
    put_in(state.asked[id], asked)
  end

  defp notified(message, state) do
    if Message.draining?(message) do
      said_draining(state)
    else
      text = String.slice(inspect(message, limit: 100, printable_limit: 100), 0, 200)
      kill("it wrote to its standard output what answers nothing: #{text}", state)
    end
  end

  # It takes no calls any more.
  defp told(:ready, _message, %{leaving: leaving} = state) when leaving != nil, do: state

  defp told(:ready, message, state) do
    case Message.result(message) do
      {:ok, %{"healthy" => false} = health} ->
        kill("it says that it is not healthy: #{inspect(health)}", state)

      # A worker that does not know the command has answered as well.
      _ ->
        join(state, nil)
    end
  end

  defp told(nil, _message, state), do: state

  # It has left the pool meanwhile.
  defp told(:check, _message, %{check: nil} = state), do: state

  defp told(:check, message, state) do
    # A worker that does not know the command has answered as well.
    checked(HealthCheck.answered(state.check, said(message, %{})), state)
  end

  defp told({:describe, from, timer}, message, state) do
    Process.cancel_timer(timer)
    GenServer.reply(from, description(said(message, %{}), state))
    state
  end

  defp said(message, otherwise) do
    case Message.result(message) do
      {:ok, said} -> said
      {:error, _failure} -> otherwise
    end
  end

  defp answered(call, message, state) do
    Process.demonitor(call.monitor, [:flush])
    if call.timer, do: Process.cancel_timer(call.timer)
    if call.ref, do: send(call.ref, {call.ref, answer(message, state)})
    Native.release(call.lease)
    unless call.ref, do: tell_ended(call, Message.ended(message), state)
    state
  end

  # A worker whose time is up cancels what still runs.
  defp answer(message, %{leaving: nil}), do: {:ok, message}

  defp answer(message, _state) do
    case Message.result(message) do
      {:error, {:cancelled, _text, _details}} -> {:crashed, stopped_text()}
      _ -> {:ok, message}
    end
  end

  # Nobody waits for the call any more. Its place is not free before it has ended.
  defp abandon(call, answer, state) do
    if answer, do: send(call.ref, {call.ref, answer})
    if call.timer, do: Process.cancel_timer(call.timer)
    timer = Process.send_after(self(), {:grace, call.id}, state.options.kill_grace)
    call = Map.merge(call, %{ref: nil, timer: timer, since: System.monotonic_time()})
    request(nil, "$cancel", %{id: call.id}, put_in(state.calls[call.id], call))
  end

  defp abandon_all(state) do
    for({_id, %{ref: ref} = call} when ref != nil <- state.calls, do: call)
    |> Enum.reduce(state, &abandon(&1, {:crashed, stopped_text()}, &2))
  end

  defp tell_ended(call, how, state) do
    Telemetry.call_cancelled(System.monotonic_time() - call.since, %{
      how: how,
      command: call.command,
      request_id: call.request_id,
      pool: state.options.name,
      worker_id: state.id
    })
  end

  # The process is gone: what its handlers have started leaves with it. How it ended is known when its
  # output is.
  defp ended(text, state) do
    OSProcess.exited(state.process)
    Process.send_after(self(), :output_timeout, @output_grace)
    stop_if_complete(%{leave(state) | ended: text})
  end

  # What it has answered and what it has printed have come whole.
  defp stop_if_complete(%{ended: ended, closed: closed, tail: tail} = state) do
    if ended && closed && tail, do: stop_ended(state), else: {:noreply, state}
  end

  defp stop_ended(state) do
    why = OSProcess.end_text(state)
    state = %{answer_all(state, why) | ended: why}

    if state.timer,
      do: stop({start_failure(state), OSProcess.start_error(state, why)}, state),
      else: stop({:exited, why}, state)
  end

  # Its calls end with it. Whoever hears nothing from one that ends in order knows that it never took the
  # call.
  defp answer_all(state, why) do
    for {_id, call} <- state.calls do
      if call.ref,
        do: send(call.ref, {call.ref, {:crashed, why}}),
        else: tell_ended(call, :killed, state)

      Native.release(call.lease)
    end

    for {_id, {:describe, from, _timer}} <- state.asked,
        do: GenServer.reply(from, description(nil, state))

    %{state | calls: %{}, asked: %{}}
  end

  defp stop(why, state), do: {:stop, {:shutdown, why}, state}
end
