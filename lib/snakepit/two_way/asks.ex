defmodule Snakepit.TwoWay.Asks do
  @moduledoc false
  # Serves the asks of one call: runs each in a task of its own, which dies with the call. The native library sends it the
  # asks, never more at once than the call allows, and tells it when the call has ended.
  use GenServer, restart: :temporary

  require Logger

  alias Snakepit.{Error, Telemetry}
  alias Snakepit.Pool.Numbers
  alias Snakepit.TwoWay.{Answer, Holding, Tools}

  @derive {Inspect, only: [:running]}
  defstruct [:tools, running: %{}]

  defmodule Running do
    @moduledoc false
    # A task: its ask, and how it ends: nil while the tool runs, `:done`, or why it was killed.
    defstruct [:id, :tool, :conversation, :started, :span, :timer, :end]
  end

  @doc "The supervisor of these processes."
  def supervisor, do: {DynamicSupervisor, name: __MODULE__.Supervisor, strategy: :one_for_one}

  @doc "Starts one for the tools of a call, if it has any."
  @spec start(Tools.t() | nil) :: {:ok, pid | nil} | {:error, Error.t()}
  def start(nil), do: {:ok, nil}

  def start(%{about: about} = tools) do
    DynamicSupervisor.start_child(__MODULE__.Supervisor, {__MODULE__, tools})
  catch
    :exit, _stopped ->
      message =
        "the application :snakepit, under which tools run, is not started: start it with " <>
          "Application.ensure_all_started(:snakepit), or as a dependency of the application"

      error = %Error{reason: :pool_stopped, message: message, pool: about.pool}
      {:error, %{error | command: about.command, request_id: about.request_id}}
  end

  @doc "Ends it and its tasks, and waits for that, for at most `patience` ms."
  @spec stop(pid, timeout) :: :ok
  def stop(pid, patience) do
    monitor = Process.monitor(pid)
    send(pid, :snakepit_asks_end)

    receive do
      {:DOWN, ^monitor, :process, ^pid, reason} -> if reason == :killed, do: Holding.killed(pid)
    after
      patience ->
        Process.demonitor(monitor, [:flush])
    end

    :ok
  end

  @doc "Has it end with another process, too."
  @spec follow(pid, pid) :: any
  def follow(asks, process), do: send(asks, {:snakepit_asks_of, process})

  def start_link(tools), do: GenServer.start_link(__MODULE__, tools)

  @impl true
  def init(tools) do
    Process.flag(:trap_exit, true)
    Process.monitor(tools.caller)
    # What the tools print goes where the caller prints.
    Process.group_leader(self(), tools.leader)
    {:ok, %__MODULE__{tools: tools}}
  end

  @impl true
  def handle_info({:snakepit_asks, conversation, asks}, state),
    do: {:noreply, Enum.reduce(asks, state, &start(&1, conversation, &2))}

  def handle_info({:snakepit_asks_withdrawn, conversation, ids}, state) do
    withdrawn = for {pid, %{id: id}} <- state.running, id in ids, do: pid
    state = Enum.reduce(withdrawn, state, &kill(&1, :cancelled, &2))
    Answer.withdrawals_handled(conversation, length(ids))
    {:noreply, state}
  end

  def handle_info({:timeout, timer, pid}, state) do
    case state.running do
      %{^pid => %{timer: ^timer}} -> {:noreply, kill(pid, :timeout, state)}
      _ended -> {:noreply, state}
    end
  end

  def handle_info({:done, pid}, state), do: {:noreply, done(pid, state)}

  def handle_info({:EXIT, pid, reason}, state) when is_map_key(state.running, pid),
    do: {:noreply, exited(pid, reason, state)}

  def handle_info({:EXIT, _supervisor, reason}, state), do: {:stop, reason, state}
  def handle_info(:snakepit_asks_end, state), do: {:stop, :normal, state}

  def handle_info({:snakepit_asks_of, process}, state) do
    Process.monitor(process)
    {:noreply, state}
  end

  def handle_info({:DOWN, _monitor, :process, _caller, _reason}, state),
    do: {:stop, :normal, state}

  # The process on another node that waits for an answer.
  def handle_info({:waits_no_more, _monitor, :process, process, _reason}, state) do
    waiting = fn {_pid, running} -> Answer.waiting(running.conversation) == process end

    case Enum.find(state.running, waiting) do
      {pid, _running} -> {:noreply, kill(pid, :cancelled, state)}
      nil -> {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    state.running |> Map.keys() |> Enum.reduce(state, &kill(&1, :cancelled, &2)) |> await_exits()
  end

  defp await_exits(%{running: running}) when running == %{}, do: :ok

  defp await_exits(state) do
    receive do
      {:done, pid} ->
        await_exits(done(pid, state))

      {:EXIT, pid, reason} when is_map_key(state.running, pid) ->
        await_exits(exited(pid, reason, state))
    end
  end

  defp start(%{id: id, tool: tool} = ask, conversation, %{tools: tools} = state) do
    if waiting = Answer.waiting(conversation),
      do: :erlang.monitor(:process, waiting, tag: :waits_no_more)

    started = System.monotonic_time()
    span = Telemetry.ask(tools, tool, id, started)
    asks = self()
    # What the other tools have captured is not copied.
    tools = %{tools | functions: Map.take(tools.functions, [tool])}
    about = %{started: started, span: span}
    {:ok, pid} = Task.start_link(fn -> run(asks, ask, conversation, tools, about) end)

    timer = if tools.timeout != :infinity, do: :erlang.start_timer(tools.timeout, self(), pid)

    running = %Running{id: id, tool: tool, conversation: conversation, timer: timer}
    running = Map.merge(running, about)
    %{state | running: Map.put(state.running, pid, running)}
  end

  # One that is done ends by itself.
  defp kill(pid, why, state) do
    case Map.fetch!(state.running, pid) do
      %{end: nil} = running ->
        Process.exit(pid, :kill)
        put_in(state.running[pid], %{running | end: why})

      _ends ->
        state
    end
  end

  defp done(pid, state) do
    case state.running do
      %{^pid => %{end: nil} = running} -> put_in(state.running[pid], %{running | end: :done})
      _killed -> state
    end
  end

  defp exited(pid, reason, %{tools: tools} = state) do
    {running, rest} = Map.pop!(state.running, pid)
    Holding.ended(pid)
    if running.timer, do: :erlang.cancel_timer(running.timer)

    case running.end do
      :done when reason == :normal ->
        :ok

      :cancelled ->
        count(tools, running, false)
        Telemetry.ask_ended(running.span, :cancelled)

      :timeout ->
        message = "the tool took longer than #{tools.timeout} ms (:tool_timeout)"
        fail(running, Tools.failure("timeout", message))
        count(tools, running, true)
        Telemetry.ask_ended(running.span, :timeout)
        log(tools, running.tool, message)

      # If it has answered nevertheless, that counts.
      _no_answer ->
        message = "the tool's process has ended: #{Exception.format_exit(reason)}"
        fail(running, Tools.failure("exit", message))
        count(tools, running, true)
        Telemetry.ask_ended(running.span, reason)
        log(tools, running.tool, message)
    end

    %{state | running: rest}
  end

  defp fail(running, failure),
    do: Answer.failed(running.conversation, running.id, failure)

  ## In the task

  defp run(asks, ask, conversation, tools, about) do
    Tools.adopt(tools, asks, Answer.holding(conversation))
    Telemetry.start_ask(about.span)
    answer = Tools.run(tools, ask.tool, ask.args)
    # Its end is not reported twice.
    send(asks, {:done, self()})
    sent = answer(conversation, ask.id, answer)
    count(tools, about, elem(answer, 0) != :ok or sent != :ok)
    report(answer, sent, ask.tool, tools, about.span)
  end

  defp report({:raised, _failure, {kind, reason, stacktrace}}, _sent, tool, tools, span) do
    Telemetry.raise_ask(span, kind, reason, stacktrace)
    log(tools, tool, Exception.format(kind, reason, stacktrace))
  end

  defp report({:ok, _value}, {:error, error}, tool, tools, span) do
    Telemetry.stop_ask(span, :error)
    log(tools, tool, error.message)
  end

  defp report({outcome, _value}, _sent, _tool, _tools, span),
    do: Telemetry.stop_ask(span, outcome)

  defp answer(conversation, id, {:ok, value}) do
    with {:error, error} <- Answer.value(conversation, id, value) do
      Answer.failed(conversation, id, Tools.failure("unsendable", error.message))
      {:error, error}
    end
  end

  defp answer(conversation, id, {:raised, failure, _raised}),
    do: Answer.failed(conversation, id, failure)

  defp answer(conversation, id, {:error, failure}), do: Answer.failed(conversation, id, failure)

  defp count(%{native: nil}, _about, _failed), do: :ok

  defp count(%{native: native, about: %{command: command}}, %{started: started}, failed),
    do: Numbers.asked(native, command, failed, System.monotonic_time() - started)

  defp log(%{about: about}, tool, text) do
    Logger.error(
      "the tool #{inspect(tool)} of the command #{inspect(about.command)} failed [#{about.request_id}]: #{text}",
      pool: about.pool,
      request_id: about.request_id
    )
  end
end
