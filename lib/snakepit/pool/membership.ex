defmodule Snakepit.Pool.Membership do
  @moduledoc false
  # A worker's membership in its pool and the stages of its life, the same for both kinds of
  # workers: their processes keep this struct and pass it the messages that are not specific to
  # their kind.
  #
  # A worker starts (`launch/4`), becomes ready (`join/2`), leaves the pool, and stops once its OS
  # process has exited. It leaves in steps, whether its pool stops, its replacement is ready, or
  # it has announced that it is draining:
  #
  #   1. `:draining`: it gets no new calls, and finishes those that it has, until `:drain_timeout`
  #   2. `:exiting`: it has SIGTERM, and has to exit; it gets SIGKILL at `:exit_timeout`
  #
  # A worker that has reached a limit of its life (`Snakepit.Pool.Lifetime`) tells its manager, and
  # takes calls until its replacement is ready. It then drains its sessions as well: it gets only their
  # calls, until the last one has ended or `:session_ttl` has passed, and its calls may take as long as
  # their own timeouts allow.
  #
  # One of Snakepit's own workers that gets SIGTERM from elsewhere announces that it is draining,
  # continues with its calls, and takes the second SIGTERM as the signal that no more calls come.
  #
  # A supervisor that stops a worker waits for these steps, `time_to_stop/1` at most. Its exit
  # signal must arrive as a message: a `gen_server` process would end at the exit of the process
  # that started it, so a worker is started without that link and creates it itself.

  require Logger

  alias Snakepit.{Error, Native}
  alias Snakepit.Pool.{HealthCheck, Lifetime, OSProcess, WorkerSpec}

  # How long to wait, after a process has exited, until its answers have arrived, which end with the last
  # process that has its standard output, and until its output is logged, in ms.
  @output_grace 5_000
  # How long to wait after that for the end of its output, which always comes, in ms.
  @lost_after 60_000
  # How long a supervisor waits in addition to the steps, in ms.
  @stop_grace 2_000

  # The options contain the workers' environment.
  @derive {Inspect, only: [:id, :key, :leaving, :kill_reason]}
  defstruct [
    :id,
    # Its number in the pool, from 0 on.
    :slot,
    # The native side of the pool, its manager and its options.
    :pool,
    :manager,
    :options,
    # Whether its output is logged only once it is ready.
    :held,
    :process,
    # Until it is ready.
    :startup_timer,
    # While calls may come: its key in the dispatcher, the state of its health checks, and its limits.
    :key,
    :check,
    :lifetime,
    # nil, `:draining` or `:exiting`.
    :leaving,
    :kill_reason,
    # Whether it is killed for a call that it has run, and not because it fails.
    :call_continued,
    # How its process has exited, and then the last lines of its output.
    :exit_status,
    :exit_text,
    :tail,
    # The reason of its supervisor, once that stops it.
    :stopping,
    # The commands whose calls gather in batches, and how many calls a batch has at most.
    batches: [],
    logged: false,
    messages_closed: false
  ]

  @type t :: %__MODULE__{}

  @doc "Like `GenServer.start_link/2`. The process must call `new/1` in its `init/1`."
  @spec start_link(module, map) :: GenServer.on_start()
  def start_link(module, worker), do: GenServer.start(module, {self(), worker})

  @doc "Creates the membership of the calling process, from the argument of its `init/1`."
  @spec new({pid, map}) :: t
  def new({supervisor, worker}) do
    Process.flag(:trap_exit, true)
    # A supervisor that is already gone sends its exit nevertheless.
    Process.link(supervisor)
    struct(__MODULE__, worker)
  end

  @doc """
  Starts its OS process, which has `:startup_timeout` to become ready. `listen` is its address, or
  nil; `env` and `options` are those of `Snakepit.Pool.OSProcess.start/3`.
  """
  @spec launch(t, String.t() | nil, list, keyword) :: {:ok, t} | {:error, String.t()}
  def launch(%{options: options} = membership, listen, env, how) do
    worker = %{id: membership.id, slot: membership.slot, listen: listen, options: options}

    with {:ok, process} <- OSProcess.start(worker, env, [held: membership.held] ++ how) do
      timer = Process.send_after(self(), :startup_timeout, options.startup_timeout)
      {:ok, %{membership | process: process, startup_timer: timer}}
    end
  end

  @doc "Whether its process is starting and not ready yet."
  @spec starting?(t) :: boolean
  def starting?(membership), do: membership.startup_timer != nil

  @doc """
  The worker is ready, as its health says: it takes calls, over its channel or, without one, through its process.
  """
  @spec join(t, reference | nil, map) :: t
  # It was killed before its answer came: it is not ready.
  def join(%{kill_reason: why} = membership, _channel, _health) when why != nil, do: membership

  def join(membership, channel, health) do
    Process.cancel_timer(membership.startup_timer)
    membership = %{membership | batches: WorkerSpec.batches(health)}
    key = Native.pool_add(membership.pool, channel, WorkerSpec.new(membership, true))
    check = HealthCheck.new(membership.id, membership.options)
    OSProcess.ready(membership.process)
    send(membership.manager, {:worker_ready, self(), key})
    lifetime = Lifetime.new(membership.options)
    report_calls(%{membership | startup_timer: nil, key: key, check: check, lifetime: lifetime})
  end

  # The dispatcher sends `{:snakepit_served, calls}`, once.
  defp report_calls(%{key: key, lifetime: lifetime} = membership) do
    calls = key && Lifetime.report_at(lifetime)
    if calls, do: Native.pool_report_at(membership.pool, key, calls)
    membership
  end

  defp live(%{key: key, leaving: leaving} = membership, _step) when key == nil or leaving != nil,
    do: membership

  defp live(%{lifetime: lifetime, process: process} = membership, step) do
    case step.(lifetime, process) do
      {:ok, lifetime} ->
        %{membership | lifetime: lifetime}

      {:reached, limit, why, lifetime} ->
        reached = %{limit: limit, why: why, since: lifetime.since}
        send(membership.manager, {:recycle, self(), reached})
        %{membership | lifetime: lifetime}

      {:dead, why} ->
        kill_ready(membership, why)
    end
  end

  @doc "It gets no calls until `resume/2`. Returns false if it has left the pool."
  @spec pause(t) :: boolean
  def pause(%{key: nil}), do: false
  def pause(membership), do: Native.pool_pause(membership.pool, membership.key)

  @doc "A paused worker continues with another channel. Returns false if it has left the pool meanwhile."
  @spec resume(t, reference) :: boolean
  def resume(%{key: nil}, _channel), do: false

  # One whose sessions have timed out cannot be paused, and gets no more calls, but is there until its calls have ended.
  def resume(%{pool: pool, key: key} = membership, channel) do
    Native.pool_resume(pool, key, channel, WorkerSpec.new(membership, true)) or
      Native.pool_pause(pool, key)
  end

  @doc "It gets no new calls. The message `:snakepit_drained` reports that its calls have ended."
  @spec drain(t) :: t
  def drain(%{leaving: nil, key: key} = membership) when key != nil do
    Native.pool_drain(membership.pool, key)
    Process.send_after(self(), :drain_timeout, membership.options.shutdown_timeout)
    %{membership | leaving: :draining}
  end

  def drain(%{leaving: nil} = membership), do: ask_to_exit(membership)
  def drain(membership), do: membership

  @doc "It gets only the calls of its sessions. `:snakepit_drained` reports that it has neither any more."
  @spec drain_sessions(t) :: t
  def drain_sessions(%{leaving: nil, key: key, options: options} = membership) when key != nil do
    Native.pool_drain_sessions(membership.pool, key)

    if options.session_ttl != :infinity,
      do: Process.send_after(self(), :sessions_timeout, options.session_ttl)

    membership
  end

  def drain_sessions(membership), do: drain(membership)

  @doc "The worker has announced that it is draining."
  @spec announced_draining(t) :: t
  def announced_draining(%{leaving: :exiting} = membership) do
    OSProcess.terminate(membership.process)
    membership
  end

  def announced_draining(membership), do: drain(membership)

  @doc """
  The worker has started although it had to exit: it has not got SIGTERM. The BEAM's port program ignores
  that signal in a process that it has created, until the process runs its program.
  """
  @spec started_too_late(t) :: t
  def started_too_late(%{leaving: :exiting} = membership) do
    OSProcess.terminate(membership.process)
    membership
  end

  def started_too_late(membership), do: membership

  @doc "No call is left."
  @spec ask_to_exit(t) :: t
  def ask_to_exit(%{leaving: :exiting} = membership), do: membership

  def ask_to_exit(membership) do
    OSProcess.terminate(membership.process)
    %{kill_grace: grace, shutdown_timeout: hooks} = membership.options
    Process.send_after(self(), :exit_timeout, 2 * grace + hooks)
    %{membership | leaving: :exiting}
  end

  @doc "How long a supervisor has to wait for a worker to stop, in ms."
  @spec time_to_stop(map) :: pos_integer
  def time_to_stop(options),
    do: 2 * options.shutdown_timeout + 3 * options.kill_grace + 2_000 + @stop_grace

  @doc "It gets no more calls, and answers to health checks no longer count."
  @spec leave(t) :: t
  def leave(%{key: nil} = membership), do: membership

  def leave(membership) do
    Native.pool_remove(membership.pool, membership.key)
    %{membership | key: nil, check: nil}
  end

  @doc "Kills the worker. When the port reports its exit, its process here ends."
  @spec kill(t, String.t()) :: t
  def kill(membership, why) do
    OSProcess.kill(membership.process)
    unless membership.kill_reason, do: OSProcess.killed(membership.process, why)
    %{leave(membership) | kill_reason: membership.kill_reason || why}
  end

  @doc "Like `kill/2`, for a worker that was ready. One that is being killed keeps its first reason."
  @spec kill_ready(t, String.t()) :: t
  def kill_ready(%{kill_reason: nil} = membership, why) do
    Logger.warning("worker #{membership.id} is killed: #{why}")
    kill(membership, why)
  end

  def kill_ready(membership, _why), do: membership

  @doc "Like `kill_ready/2`, because a call continued past `:kill_grace` after it was cancelled."
  @spec kill_for_call(t, String.t()) :: t
  def kill_for_call(%{kill_reason: nil} = membership, why),
    do: kill_ready(%{membership | call_continued: true}, why)

  def kill_for_call(membership, _why), do: membership

  @doc "On `:check_health`; `ask` is that of `Snakepit.Pool.HealthCheck.tick/2`."
  @spec check_health(t, (timeout -> term)) :: t
  def check_health(%{key: key, leaving: leaving} = membership, _ask)
      when key == nil or leaving != nil,
      do: membership

  def check_health(membership, ask),
    do: membership |> live(&Lifetime.measure/2) |> checked(&HealthCheck.tick(&1, ask))

  @doc "On `:check_health` while it has no connection over which it could answer."
  @spec skip_check(t) :: t
  def skip_check(membership),
    do: membership |> live(&Lifetime.measure/2) |> checked(&{:ok, HealthCheck.skip(&1)})

  @doc "Its connection has ended: neither what it has missed on that one counts, nor an answer that is still to come."
  @spec reset_check(t) :: t
  def reset_check(membership), do: checked(membership, &{:ok, HealthCheck.reset(&1)})

  @doc "Handles the answer to a health check. A late answer does not count."
  @spec health_answered(t, map) :: t
  def health_answered(membership, health),
    do: checked(membership, &HealthCheck.answered(&1, health))

  @spec health_failed(t, Error.t()) :: t
  def health_failed(membership, error), do: checked(membership, &HealthCheck.failed(&1, error))

  defp checked(%{check: nil} = membership, _step), do: membership

  defp checked(membership, step) do
    case step.(membership.check) do
      {:ok, check} -> %{membership | check: check}
      {:dead, why} -> kill_ready(membership, why)
    end
  end

  @doc """
  Handles a message that workers of both kinds get. Returns what the worker's process must do:

    * `:noreply` - nothing
    * `:cancel_calls` - the time to finish calls is over (`stopped_text/0`); then call
      `ask_to_exit/1`
    * `:stop` - end with `stop_reason/1`
  """
  @spec handle_info(term, t) :: {:noreply | :cancel_calls | :stop, t}
  # Its replacement is ready, or its pool has become smaller. In a restart its sessions are lost.
  def handle_info(:retire, membership), do: {:noreply, drain(membership)}
  def handle_info(:drain_sessions, membership), do: {:noreply, drain_sessions(membership)}

  # The sessions that are left are lost; running calls continue.
  def handle_info(:sessions_timeout, %{leaving: nil, key: key} = membership) when key != nil do
    Native.pool_drain(membership.pool, key)
    {:noreply, membership}
  end

  def handle_info({:snakepit_served, calls}, membership),
    do: {:noreply, live(membership, &Lifetime.served(&1, calls, &2))}

  def handle_info(:report_calls, membership), do: {:noreply, report_calls(membership)}

  def handle_info(:max_age, membership),
    do: {:noreply, live(membership, fn lifetime, _process -> Lifetime.old(lifetime) end)}

  def handle_info(:snakepit_drained, membership), do: {:noreply, ask_to_exit(membership)}
  def handle_info(:drain_timeout, membership), do: {:cancel_calls, membership}

  def handle_info(:exit_timeout, %{exit_text: nil} = membership),
    do: {:noreply, kill(membership, "it did not exit after SIGTERM")}

  def handle_info(:startup_timeout, %{startup_timer: timer} = membership) when timer != nil do
    timeout = membership.options.startup_timeout
    why = "it was not ready within #{timeout} ms (:startup_timeout)"
    {:noreply, kill(membership, why)}
  end

  def handle_info({:snakepit_kill, why}, membership),
    do: {:noreply, kill_for_call(membership, why)}

  def handle_info({port, {:exit_status, status}}, %{process: %{port: port}} = membership),
    do: exited(%{membership | exit_status: status}, OSProcess.status_text(status))

  # It has not read what to run, and its exit status will not arrive any more.
  def handle_info({:EXIT, port, reason}, %{process: %{port: port}, exit_text: nil} = membership),
    do: exited(membership, "it exited while it was being started (#{inspect(reason)})")

  def handle_info({:EXIT, port, _reason}, membership) when is_port(port),
    do: {:noreply, membership}

  # Its supervisor stops it, or has ended; or its manager does not need it.
  def handle_info({:EXIT, _pid, reason}, membership), do: stop(reason, membership)

  def handle_info({ref, {:ended, tail}}, %{process: %{output: %{ref: ref}}} = membership),
    do: stop_if_complete(%{membership | tail: tail})

  def handle_info(
        {:DOWN, monitor, :process, _logger, _reason},
        %{process: %{output: %{monitor: monitor}}} = membership
      ),
      do: stop_if_complete(%{membership | logged: true})

  def handle_info(:output_timeout, membership) do
    Process.send_after(self(), :stop_timeout, @lost_after)
    stop_if_complete(%{membership | messages_closed: true, logged: true})
  end

  def handle_info(:stop_timeout, membership), do: {:stop, membership}

  def handle_info(_late, membership), do: {:noreply, membership}

  @doc "The end of its standard output, for a worker whose messages arrive there."
  @spec messages_closed(t) :: {:noreply | :stop, t}
  def messages_closed(membership), do: stop_if_complete(%{membership | messages_closed: true})

  defp stop(reason, %{process: nil} = membership), do: {:stop, %{membership | stopping: reason}}

  # It is about to stop on its own, and has its reason.
  defp stop(_reason, %{exit_text: text} = membership) when text != nil, do: {:noreply, membership}

  defp stop(_reason, %{stopping: earlier} = membership) when earlier != nil,
    do: {:noreply, membership}

  defp stop(reason, membership) do
    timeout = time_to_stop(membership.options) - @stop_grace
    Process.send_after(self(), :stop_timeout, timeout)
    {:noreply, drain(%{membership | stopping: reason})}
  end

  # The processes that its handlers have started end with it. How it has exited is known once its
  # output has ended.
  defp exited(membership, text) do
    OSProcess.exited(membership.process)
    Process.send_after(self(), :output_timeout, @output_grace)
    stop_if_complete(%{leave(membership) | exit_text: text})
  end

  # Its answers and output have arrived completely; when its pool stops they are logged, too.
  defp stop_if_complete(%{process: process} = membership) do
    answered? = process.messages == nil or membership.messages_closed
    logged? = membership.logged or membership.stopping == nil
    complete? = membership.exit_text && membership.tail && answered? && logged?
    {if(complete?, do: :stop, else: :noreply), membership}
  end

  @doc "The reason for calls that are still running when the time to finish them is over."
  @spec stopped_text() :: String.t()
  def stopped_text, do: "it was stopped, and the call continued past :shutdown_timeout"

  @doc """
  Why it exited: why it was killed, or how its process exited and its last output. If it is killed
  before it is ready, its output is included as well, because it shows what it was doing.
  """
  @spec end_text(t) :: String.t()
  def end_text(%{kill_reason: why, startup_timer: nil}) when why != nil, do: why

  def end_text(%{kill_reason: why, exit_text: text, tail: tail} = membership) do
    text = "#{why || text || "it was killed"}#{memory_limit(membership)}"
    if tail in [nil, []], do: text, else: "#{text}; its last output:\n#{Enum.join(tail, "\n")}"
  end

  # The signals of a program that has got no memory, and what it may have written before.
  @no_memory [128 + 6, 128 + 7, 128 + 11]
  @no_memory_text ~r/memory|can't start new thread|failed to map segment|Resource temporarily unavailable/i

  defp memory_limit(%{options: %{memory_limit: limit}} = membership) when limit != nil do
    if membership.exit_status in @no_memory or
         Enum.any?(membership.tail || [], &(&1 =~ @no_memory_text)),
       do: "; it may have needed more memory than :memory_limit, #{limit} bytes",
       else: ""
  end

  defp memory_limit(_membership), do: ""

  @doc """
  The exit reason of its process: its supervisor's, or `{:shutdown, {how, text}}` for its manager,
  where `how` is `:exited`, `:call_continued` if it was killed for a call (`kill_for_call/2`), or
  `:start_failed` or `:terminated` for a worker that was not ready.
  """
  @spec stop_reason(t) :: term
  def stop_reason(%{stopping: reason}) when reason != nil, do: reason

  def stop_reason(%{startup_timer: nil} = membership) do
    how = if membership.call_continued, do: :call_continued, else: :exited
    {:shutdown, {how, end_text(membership)}}
  end

  def stop_reason(membership), do: start_failed(membership, end_text(membership))

  @doc "Like `stop_reason/1`, for a worker that did not start for this reason."
  @spec start_failed(t, String.t()) :: {:shutdown, {:start_failed | :terminated, String.t()}}
  def start_failed(membership, why),
    do: {:shutdown, {start_failure(membership), "worker #{membership.id} did not start: #{why}"}}

  # SIGTERM does not count as a failure.
  defp start_failure(%{kill_reason: nil, leaving: leaving, exit_status: status}) do
    if leaving != nil or OSProcess.terminated?(status), do: :terminated, else: :start_failed
  end

  defp start_failure(_membership), do: :start_failed

  @doc "The last step, for `terminate/2`: ends its OS process and removes everything that the pool has of it."
  @spec stopped(t) :: :ok
  def stopped(%{process: nil}), do: :ok

  def stopped(membership) do
    leave(membership)
    if membership.exit_text == nil, do: OSProcess.exited(membership.process)

    OSProcess.stopped(membership.process, stopped_why(membership))
    :ok
  end

  defp stopped_why(%{stopping: nil, exit_text: text} = membership) when text != nil do
    {:shutdown, {_how, why}} = stop_reason(membership)
    why
  end

  defp stopped_why(_membership), do: :shutdown

  @doc "The pool's reason, followed by the worker's own reason, if any."
  @spec description(t, map | nil) :: map
  def description(%{process: process, key: key}, info),
    do: %{os_pid: process && process.os_pid, key: key, info: info}

  @doc """
  What a crash report or `:sys.get_status/1` may show of a worker's process: neither secrets and
  environment, nor data of callers.
  """
  @spec without_secrets(map) :: map
  def without_secrets(status) do
    Map.new(status, fn
      {:state, %{membership: membership}} ->
        {:state, Map.take(membership, [:id, :key, :leaving, :kill_reason])}

      {:message, message} when is_tuple(message) ->
        {:message, {elem(message, 0), :hidden}}

      {:log, _messages} ->
        {:log, []}

      other ->
        other
    end)
  end
end
