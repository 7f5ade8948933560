defmodule Snakepit.Pool.Membership do
  @moduledoc false
  # A worker's place in its pool and the steps of its life: the same for both kinds of worker, whose
  # processes keep this struct and give it the messages that are not of their own kind.
  #
  # A worker starts (`launch/4`), is ready (`join/2`), leaves, and stops once its OS process has ended. It
  # leaves in steps, whether its pool stops, its replacement is ready, or it has said that it leaves:
  #
  #   1. `:draining`: it gets no new calls, and finishes those that it has, until `:drain_timeout`
  #   2. `:exiting`: it has SIGTERM, and has to exit; it gets SIGKILL at `:exit_timeout`
  #
  # One of our own that gets SIGTERM from elsewhere says that it leaves, goes on with its calls, and takes
  # the second SIGTERM for the word that no more come.
  #
  # A supervisor that stops a worker waits for these steps, `time_to_stop/1` at most. Its exit signal is a
  # message like others: a process of `gen_server` would end at that of the process that started it, so a
  # worker is started without that link and sets it itself.

  require Logger

  alias Snakepit.Native
  alias Snakepit.Pool.{HealthCheck, OSProcess}

  # How long the status of a process may be on its way once its output has ended, and the end of its output
  # once it has ended itself, in ms.
  @output_grace 1_000
  # What a supervisor waits beside the steps, in ms.
  @stop_grace 2_000

  # The options have the workers' environment in them.
  @derive {Inspect, only: [:id, :key, :leaving, :kill_reason]}
  defstruct [
    :id,
    # The native side of the pool, its manager and its options.
    :pool,
    :manager,
    :options,
    # Whether its output is logged only once it is ready.
    :held,
    :process,
    # Until it is ready.
    :startup_timer,
    # While calls may come: the dispatcher's name of it, and the state of its health checks.
    :key,
    :check,
    # nil, `:draining` or `:exiting`.
    :leaving,
    :kill_reason,
    # How its process has ended, and then the last lines of its output.
    :exit_status,
    :exit_text,
    :tail,
    # Its supervisor's reason, once that stops it.
    :stopping,
    logged: false,
    messages_closed: false
  ]

  @type t :: %__MODULE__{}

  @doc "As `GenServer.start_link/2`. The process's `init/1` has to call `new/1`."
  @spec start_link(module, map) :: GenServer.on_start()
  def start_link(module, worker), do: GenServer.start(module, {self(), worker})

  @doc "The membership of the calling process, of what its `init/1` was given."
  @spec new({pid, map}) :: t
  def new({supervisor, worker}) do
    Process.flag(:trap_exit, true)
    # One that is gone already sends its exit all the same.
    Process.link(supervisor)
    struct(__MODULE__, worker)
  end

  @doc """
  Starts its OS process, which has `:startup_timeout` to be ready. `listen` is where it has to listen, or
  nil; `env` and `options` are those of `Snakepit.Pool.OSProcess.start/3`.
  """
  @spec launch(t, String.t() | nil, list, keyword) :: {:ok, t} | {:error, String.t()}
  def launch(%{options: options} = membership, listen, env, how) do
    worker = %{id: membership.id, listen: listen, options: options}

    with {:ok, process} <- OSProcess.start(worker, env, [held: membership.held] ++ how) do
      timer = Process.send_after(self(), :startup_timeout, options.startup_timeout)
      {:ok, %{membership | process: process, startup_timer: timer}}
    end
  end

  @doc "Whether its process starts, and is not ready yet."
  @spec starting?(t) :: boolean
  def starting?(membership), do: membership.startup_timer != nil

  @doc "The worker is ready: calls may come, to its channel or, with none, through its process."
  @spec join(t, reference | nil) :: t
  def join(membership, channel) do
    Process.cancel_timer(membership.startup_timer)
    key = Native.pool_add(membership.pool, channel, native(membership))
    check = HealthCheck.new(membership.id, membership.options)
    OSProcess.ready(membership.process)
    send(membership.manager, {:worker_ready, self(), key})
    %{membership | startup_timer: nil, key: key, check: check}
  end

  @doc "No call comes until `resume/2`. False if it has left, or leaves."
  @spec pause(t) :: boolean
  def pause(%{key: nil}), do: false
  def pause(membership), do: Native.pool_pause(membership.pool, membership.key)

  @doc "A worker that was paused goes on with another channel. False if it has left meanwhile."
  @spec resume(t, reference) :: boolean
  def resume(membership, channel),
    do: Native.pool_resume(membership.pool, membership.key, channel, native(membership))

  # What the dispatcher has to know of a worker.
  defp native(%{id: id, options: options}),
    do: %{id: id, max_concurrency: options.max_concurrency, kill_grace: options.kill_grace}

  @doc "No new call comes. The message `:snakepit_drained` says that those it has are over."
  @spec drain(t) :: t
  def drain(%{leaving: nil, key: key} = membership) when key != nil do
    Native.pool_drain(membership.pool, key)
    Process.send_after(self(), :drain_timeout, membership.options.shutdown_timeout)
    %{membership | leaving: :draining}
  end

  def drain(%{leaving: nil} = membership), do: ask_to_exit(membership)
  def drain(membership), do: membership

  @doc "The worker has said that it leaves."
  @spec said_draining(t) :: t
  def said_draining(%{leaving: :exiting} = membership) do
    OSProcess.terminate(membership.process)
    membership
  end

  def said_draining(membership), do: drain(membership)

  @doc "Nothing holds it any more."
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

  @doc "No call comes any more, and no answer to a health check counts."
  @spec leave(t) :: t
  def leave(%{key: nil} = membership), do: membership

  def leave(membership) do
    Native.pool_remove(membership.pool, membership.key)
    %{membership | key: nil, check: nil}
  end

  @doc "Kills the worker. Its exit, which the port tells, ends its process here."
  @spec kill(t, String.t()) :: t
  def kill(membership, why) do
    OSProcess.kill(membership.process)
    unless membership.kill_reason, do: OSProcess.killed(membership.process, why)
    %{leave(membership) | kill_reason: membership.kill_reason || why}
  end

  @doc "As `kill/2`, for one that was ready. One that is being killed already has its reason."
  @spec kill_ready(t, String.t()) :: t
  def kill_ready(%{kill_reason: nil} = membership, why) do
    Logger.warning("worker #{membership.id} is killed: #{why}")
    kill(membership, why)
  end

  def kill_ready(membership, _why), do: membership

  @doc "On `:check_health`: `ask` is that of `Snakepit.Pool.HealthCheck.tick/2`."
  @spec check_health(t, (timeout -> term)) :: t
  def check_health(%{key: key, leaving: leaving} = membership, _ask)
      when key == nil or leaving != nil,
      do: membership

  def check_health(membership, ask), do: checked(membership, &HealthCheck.tick(&1, ask))

  @doc "The answer to a health check. One that comes too late counts for nothing."
  @spec health_answered(t, map) :: t
  def health_answered(membership, health),
    do: checked(membership, &HealthCheck.answered(&1, health))

  @spec health_failed(t, String.t()) :: t
  def health_failed(membership, why), do: checked(membership, &HealthCheck.failed(&1, why))

  defp checked(%{check: nil} = membership, _step), do: membership

  defp checked(membership, step) do
    case step.(membership.check) do
      {:ok, check} -> %{membership | check: check}
      {:dead, why} -> kill_ready(membership, why)
    end
  end

  @doc """
  Handles a message that workers of both kinds get. What the worker's process has to do comes with it:

    * `:noreply` - nothing
    * `:cancel_calls` - the time to finish calls is up (`stopped_text/0`); then comes `ask_to_exit/1`
    * `:stop` - end with `stop_reason/1`
  """
  @spec handle_info(term, t) :: {:noreply | :cancel_calls | :stop, t}
  # Its replacement is ready.
  def handle_info(:retire, membership), do: {:noreply, drain(membership)}
  def handle_info(:snakepit_drained, membership), do: {:noreply, ask_to_exit(membership)}
  def handle_info(:drain_timeout, membership), do: {:cancel_calls, membership}

  def handle_info(:exit_timeout, %{exit_text: nil} = membership),
    do: {:noreply, kill(membership, "it did not exit after SIGTERM")}

  def handle_info(:startup_timeout, %{startup_timer: timer} = membership) when timer != nil do
    timeout = membership.options.startup_timeout
    why = "it was not ready within #{timeout} ms (:startup_timeout)"
    {:noreply, kill(membership, why)}
  end

  def handle_info({:snakepit_kill, why}, membership), do: {:noreply, kill_ready(membership, why)}

  def handle_info({port, {:exit_status, status}}, %{process: %{port: port}} = membership),
    do: exited(%{membership | exit_status: status}, OSProcess.status_text(status))

  # Its standard input is closed: its status does not come any more.
  def handle_info({:EXIT, port, reason}, %{process: %{port: port}, exit_text: nil} = membership),
    do: exited(membership, "its standard input is closed (#{inspect(reason)})")

  def handle_info({:EXIT, port, _reason}, membership) when is_port(port),
    do: {:noreply, membership}

  # Its supervisor stops it, or has ended; or its manager has no use for it.
  def handle_info({:EXIT, _pid, reason}, membership), do: stop(reason, membership)

  def handle_info({ref, {:ended, tail}}, %{process: %{output: %{ref: ref}}} = membership),
    do: stop_if_complete(%{membership | tail: tail})

  def handle_info(
        {:DOWN, monitor, :process, _logger, _reason},
        %{process: %{output: %{monitor: monitor}}} = membership
      ),
      do: stop_if_complete(%{membership | logged: true})

  def handle_info(timeout, membership) when timeout in [:output_timeout, :stop_timeout],
    do: {:stop, membership}

  def handle_info(_late, membership), do: {:noreply, membership}

  @doc "What it writes to its standard output has ended, of one whose messages come there."
  @spec messages_closed(t) :: {:noreply | :stop, t}
  def messages_closed(membership), do: stop_if_complete(%{membership | messages_closed: true})

  defp stop(reason, %{process: nil} = membership), do: {:stop, %{membership | stopping: reason}}

  # It is about to stop by itself, and has its reason.
  defp stop(_reason, %{exit_text: text} = membership) when text != nil, do: {:noreply, membership}

  defp stop(_reason, %{stopping: earlier} = membership) when earlier != nil,
    do: {:noreply, membership}

  defp stop(reason, membership) do
    timeout = time_to_stop(membership.options) - @stop_grace
    Process.send_after(self(), :stop_timeout, timeout)
    {:noreply, drain(%{membership | stopping: reason})}
  end

  # What its handlers have started leaves with it. How it has ended is known when its output is.
  defp exited(membership, text) do
    OSProcess.exited(membership.process)
    Process.send_after(self(), :output_timeout, @output_grace)
    stop_if_complete(%{leave(membership) | exit_text: text})
  end

  # What it has answered and what it has printed have come whole; when its pool stops they are logged too.
  defp stop_if_complete(%{process: process} = membership) do
    answered? = process.messages == nil or membership.messages_closed
    logged? = membership.logged or membership.stopping == nil
    complete? = membership.exit_text && membership.tail && answered? && logged?
    {if(complete?, do: :stop, else: :noreply), membership}
  end

  @doc "What the calls hear that a worker has when the time to finish them is up."
  @spec stopped_text() :: String.t()
  def stopped_text, do: "it was stopped, and the call continued past :shutdown_timeout"

  @doc """
  Why it ended: as it was killed, or how its process ended and with which output. One that is killed before
  it is ready has its output as well: it tells what it was at.
  """
  @spec end_text(t) :: String.t()
  def end_text(%{kill_reason: why, startup_timer: nil}) when why != nil, do: why

  def end_text(%{kill_reason: why, exit_text: text, tail: tail}) do
    text = why || text || "it was killed"
    if tail in [nil, []], do: text, else: "#{text}; its last output:\n#{Enum.join(tail, "\n")}"
  end

  @doc """
  With which reason its process ends: its supervisor's, or `{:shutdown, {how, text}}` for its manager, where
  `how` is `:exited`, or `:start_failed` or `:terminated` of one that was not ready.
  """
  @spec stop_reason(t) :: term
  def stop_reason(%{stopping: reason}) when reason != nil, do: reason

  def stop_reason(%{startup_timer: nil} = membership),
    do: {:shutdown, {:exited, end_text(membership)}}

  def stop_reason(membership), do: start_failed(membership, end_text(membership))

  @doc "As `stop_reason/1`, of one that did not start because of that."
  @spec start_failed(t, String.t()) :: {:shutdown, {:start_failed | :terminated, String.t()}}
  def start_failed(membership, why),
    do: {:shutdown, {start_failure(membership), "worker #{membership.id} did not start: #{why}"}}

  # SIGTERM is no failure of its own.
  defp start_failure(%{kill_reason: nil, leaving: leaving, exit_status: status}) do
    if leaving != nil or OSProcess.terminated?(status), do: :terminated, else: :start_failed
  end

  defp start_failure(_membership), do: :start_failed

  @doc "The last step, of `terminate/2`: its OS process is over, and the pool has nothing of it."
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

  @doc "What the pool says of the worker, with what the worker itself said, if it did."
  @spec description(t, map | nil) :: map
  def description(%{process: process, key: key}, info),
    do: %{os_pid: process && process.os_pid, key: key, info: info}

  @doc """
  What a crash report or `:sys.get_status/1` may show of a worker's process, whatever formats it: neither
  secrets and environment, nor what callers have sent.
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
