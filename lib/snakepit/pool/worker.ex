defmodule Snakepit.Pool.Worker do
  @moduledoc false
  # One worker that is spoken to over stdin and stdout: its operating-system process and the calls it
  # runs. Each call has a lease, which goes back to the pool when its response has come, whoever still
  # waits for that.
  use GenServer, restart: :temporary

  import Snakepit.Pool.Membership

  alias Snakepit.GRPC.Native
  alias Snakepit.Pool.{HealthCheck, Message, OSProcess}
  alias Snakepit.Telemetry

  # How long the end of the output may be on its way once the process is gone, in ms.
  @output_grace 1_000

  defstruct [
    :id,
    :pool,
    :manager,
    :options,
    :path,
    :process,
    :output,
    :output_ref,
    :key,
    :timer,
    :why,
    :ended,
    :check,
    calls: %{},
    asked: %{}
  ]

  @doc "Options: `:id`, `:pool` (native), `:manager`, `:path` (of its pipe), `:options` (the pool's)."
  def start_link(worker), do: GenServer.start_link(__MODULE__, worker)

  @doc "How long a supervisor has to wait for a worker to stop, in ms."
  def shutdown(options), do: options.shutdown_timeout + 2 * options.kill_grace + 1_000

  @impl true
  def init(worker) do
    Process.flag(:trap_exit, true)
    state = struct!(__MODULE__, worker)
    {:ok, %{state | path: state.path <> ".stderr"}, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    worker = %{id: state.id, listen: nil, options: state.options}

    # The calls in hand are a bound already; a port that is full would hold up this process.
    port_options = [packet: 4, busy_limits_port: :disabled, busy_limits_msgq: :disabled]

    with {:ok, state} <- open_output(state),
         wrap = &redirected(&1, state.path),
         {:ok, process} <- OSProcess.start(worker, [], port_options, wrap) do
      timer = Process.send_after(self(), :startup_timeout, state.options.startup_timeout)
      {:noreply, request(:ready, "$health", %{}, %{state | process: process, timer: timer})}
    else
      {:error, message} -> stop({:start_failed, OSProcess.start_error(state, message)}, state)
    end
  end

  @impl true
  def handle_call({:describe, _timeout}, _from, %{key: nil} = state),
    do: {:reply, description(nil, state), state}

  def handle_call({:describe, timeout}, from, state) do
    timer = Process.send_after(self(), {:describe_timeout, from}, timeout)
    {:noreply, request({:describe, from, timer}, "$info", %{}, state)}
  end

  @impl true
  def handle_info({:call, ref, %{left: left} = call}, state) do
    timer = left && Process.send_after(self(), {:deadline, call.id}, left)
    monitor = Process.monitor(call.caller)
    write(call.message, state)
    call = call |> Map.drop([:message]) |> Map.merge(%{ref: ref, timer: timer, monitor: monitor})
    {:noreply, put_in(state.calls[call.id], call)}
  end

  def handle_info({port, {:data, message}}, %{process: %{port: port}} = state) do
    id = Native.response_id(message)

    case state do
      %{calls: %{^id => call}} ->
        {:noreply, answered(call, message, %{state | calls: Map.delete(state.calls, id)})}

      %{asked: %{^id => asked}} ->
        {:noreply, told(asked, message, %{state | asked: Map.delete(state.asked, id)})}

      _ ->
        text = String.slice(inspect(message, limit: 100, printable_limit: 100), 0, 200)
        {:noreply, kill("it wrote to its standard output what answers nothing: #{text}", state)}
    end
  end

  def handle_info({port, {:exit_status, status}}, %{process: %{port: port}} = state) do
    ended(OSProcess.exit_text(status), state)
  end

  def handle_info({:EXIT, port, reason}, %{process: %{port: port}, ended: nil} = state) do
    ended("it takes no more requests (#{inspect(reason)})", state)
  end

  def handle_info({:EXIT, port, _reason}, state) when is_port(port), do: {:noreply, state}
  def handle_info({:EXIT, _from, reason}, state), do: {:stop, reason, state}

  def handle_info({ref, {:data, line}}, %{output_ref: ref} = state) do
    {:noreply, %{state | process: OSProcess.printed(state.process, line)}}
  end

  def handle_info({ref, :closed}, %{output_ref: ref} = state) do
    state = %{state | output_ref: nil}
    if state.ended, do: stop_ended(state), else: {:noreply, state}
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

  def handle_info(:check_health, %{key: nil} = state), do: {:noreply, state}

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

  def handle_info({:snakepit_end_session, id, generation}, state) do
    args = %{session_id: id, session_generation: generation}
    {:noreply, request(nil, "$end_session", args, state)}
  end

  def handle_info({:snakepit_kill, why}, state), do: {:noreply, kill_ready(why, state)}

  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    if state.process && !state.ended, do: drain(state)
    if state.process, do: OSProcess.stopped(state.process, state.ended || :shutdown)
    if state.output, do: Native.output_close(state.output)
    File.rm(state.path)
  end

  # Calls finish; those that have not are cancelled and clean up; then the process ends.
  defp drain(%{options: options} = state) do
    if state.key, do: Native.pool_drain(state.pool, state.key)

    options.shutdown_timeout
    |> serve(&(&1.calls == %{}), state)
    |> abandon_all()
    |> then(&serve(options.kill_grace, fn state -> state.calls == %{} end, &1))
    |> tap(&OSProcess.terminate(&1.process))
    |> then(&serve(options.kill_grace, fn state -> state.ended end, &1))
    |> tap(&OSProcess.kill(&1.process))
    |> then(&serve(@output_grace, fn state -> state.output_ref == nil end, &1))
    |> leave()
  end

  # Goes on with its work for as long as that.
  defp serve(time, done?, state) do
    serve_until(System.monotonic_time(:millisecond) + time, done?, state)
  end

  defp serve_until(deadline, done?, state) do
    if done?.(state) do
      state
    else
      receive do
        message ->
          case handle_info(message, state) do
            {:noreply, state} -> serve_until(deadline, done?, state)
            {:stop, _reason, state} -> state
          end
      after
        max(deadline - System.monotonic_time(:millisecond), 0) -> state
      end
    end
  end

  defp open_output(state) do
    ref = make_ref()

    with {_, 0} <- System.cmd("mkfifo", ["-m", "600", state.path], stderr_to_stdout: true),
         {:ok, output} <- Native.output_open(ref, state.path) do
      {:ok, %{state | output: output, output_ref: ref}}
    else
      {:error, message} -> {:error, "its output cannot be read: #{message}"}
      {output, _status} -> {:error, "its output cannot be read: #{output}"}
    end
  end

  # A port cannot redirect its program's standard error, and its standard output carries the protocol.
  defp redirected({executable, args, env}, pipe) do
    {"/bin/sh", ["-c", ~s(exec "$@" 2>"$0"), pipe, executable | args], env}
  end

  # Asks the worker itself; `asked` is who is to be told.
  defp request(asked, command, args, state) do
    {id, _request_id} = Native.new_call()
    request(id, asked, command, args, state)
  end

  defp request(id, asked, command, args, state) do
    {:ok, message} = Message.request(id, command, args)
    write(message, state)
    put_in(state.asked[id], asked)
  end

  defp write(message, state) do
    Port.command(state.process.port, message)
  rescue
    # A port that is closed has told so, or is about to.
    ArgumentError -> false
  end

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
    GenServer.reply(from, description(said(message, nil), state))
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
    if call.ref, do: send(call.ref, {call.ref, {:ok, message}})
    Native.release(call.lease)
    unless call.ref, do: tell_ended(call, Message.ended(message), state)
    state
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
    why = {:crashed, "the pool has stopped"}

    for({_id, %{ref: ref} = call} when ref != nil <- state.calls, do: call)
    |> Enum.reduce(state, &abandon(&1, why, &2))
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

  # The process is gone: what its handlers have started leaves with it.
  defp ended(text, state) do
    OSProcess.kill(state.process)
    Native.output_close(state.output)
    state = leave(state)
    why = state.why || text

    for {_id, call} <- state.calls do
      if call.ref,
        do: send(call.ref, {call.ref, {:crashed, why}}),
        else: tell_ended(call, :killed, state)

      Native.release(call.lease)
    end

    for {_id, {:describe, from, _timer}} <- state.asked,
        do: GenServer.reply(from, description(nil, state))

    Process.send_after(self(), :output_timeout, @output_grace)
    state = %{state | calls: %{}, asked: %{}, ended: why}
    if state.output_ref, do: {:noreply, state}, else: stop_ended(state)
  end

  defp stop_ended(%{timer: nil} = state), do: stop({:exited, state.ended}, state)

  defp stop_ended(state),
    do: stop({:start_failed, OSProcess.start_error(state.process, state.ended)}, state)

  defp stop(why, state), do: {:stop, {:shutdown, why}, state}
end
