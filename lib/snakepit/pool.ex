defmodule Snakepit.Pool do
  @moduledoc """
  A pool of workers in your supervision tree:

      children = [
        {Snakepit.Pool,
         name: MyApp.Python,
         size: 4,
         adapter_args: [class: "my_app.commands:Commands", paths: ["python"]]}
      ]

      {:ok, %{"result" => summary}} =
        Snakepit.execute("summarize", %{text: "..."}, pool: MyApp.Python)

  With `endpoints: ["tcp:10.0.0.7:50051", ...]` a pool has no processes of its own: its calls go to servers that run
  already, on this machine or on others. See [Beyond one machine](beyond_one_machine.md).

  You can run any number of pools. The application's environment defines the one that the
  application itself starts, with the default name `Snakepit.Pool`: see
  [Configuration](#module-configuration).

  Workers start concurrently. Calls made before one is ready wait in the queue for as long as
  their `:timeout` allows (`:queue_timeout` applies only once the pool has had a ready worker),
  and then fail with `:not_ready`. Once every worker has failed to start, they fail at once with
  `:worker_start_failed` and the reason, and the pool keeps trying. With `await_ready: true` the
  start of the pool itself waits for its workers, so that whatever the supervisor starts next can
  call at once; it fails with the reason if a worker does not start.

  `Snakepit.restart/2` replaces the workers one after another, without failing a call;
  `Snakepit.resize/2` changes their number; `:max_requests`, `:max_age` and `:max_memory` replace
  workers that have reached a limit: see [Recycling
  workers](configuration.md#recycling-workers). With
  `reload: true` the pool does so automatically when Python code changes: see
  [Writing commands](writing_commands.md#reloading).

  ## Options

  #{Snakepit.Config.table()}

  ## Configuration

      config :snakepit,
        adapter_module: Snakepit.Adapters.GRPCPython,
        adapter_args: [class: "my_app.commands:Commands", paths: ["python"]],
        fallback_adapter: Snakepit.Adapters.GenericPythonV2,
        pool_config: %{pool_size: 4, max_concurrency: 1, max_queue: 1_000},
        grpc_config: %{transport: :tcp, base_port: 50_051, port_range: 100}

  Each key sets an option of the pool. The keys are checked when the application starts, as
  options are when a pool starts. One more key, `runtime_threads`, sets how many threads the
  native library uses for all pools together.

  #{Snakepit.Config.Environment.tables()}
  """
  use Supervisor

  alias Snakepit.{Adapter, Config, Error, GRPC, Relay, Stdio}
  alias Snakepit.Config.{Env, Hidden, Options, Paths}

  alias Snakepit.Pool.{
    Diagnostics,
    EndpointManager,
    Manager,
    Notifier,
    Registry,
    Reloader,
    RuntimeDir,
    WorkerSupervisor
  }

  # How often to look for a pool that is gone, in ms: no message says that it is back.
  @return_poll 20

  @doc false
  def child_spec(options) do
    unless Keyword.keyword?(options),
      do: raise(ArgumentError, "expected a keyword list of options in {Snakepit.Pool, options}")

    # Supervisors log the arguments of their children.
    options = if options[:env], do: Keyword.update!(options, :env, &Env.wrap/1), else: options
    options = Hidden.wrap(options)

    # When a supervisor restarts the pool, the current directory may be another one.
    options =
      if options[:endpoints],
        do: options,
        else: Keyword.update(options, :root, Paths.root(), &Paths.root/1)

    %{
      id: {__MODULE__, Keyword.get(options, :name, __MODULE__)},
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor
    }
  end

  @doc """
  Starts a pool. Returns `{:error, %Snakepit.Error{}}` if an option is invalid; with
  `:await_ready` also if a worker does not start, or not in time.
  """
  @doc since: "0.1.0"
  @spec start_link(keyword) :: Supervisor.on_start() | {:error, Error.t()}
  def start_link(options \\ []) do
    with {:ok, options} <- Config.pool(options),
         {:ok, facts} <- facts(options),
         :ok <- check_reload(options, facts),
         {:ok, supervisor} <-
           Supervisor.start_link(__MODULE__, {options, facts}, name: options.name) do
      await_started(supervisor, options)
    end
  end

  # What each adapter says about itself. Each may refuse the options. A remote pool has none.
  defp facts(options) do
    for adapter when adapter != nil <- [options.adapter, options.fallback_adapter],
        reduce: {:ok, %{}} do
      {:ok, facts} ->
        with :ok <- Adapter.validate_options(adapter, options),
             {:ok, of_one} <- Adapter.facts(adapter),
             do: {:ok, Map.put(facts, adapter, Map.put(of_one, :transport, transport(of_one)))}

      failed ->
        failed
    end
  end

  # The one place that decides between the kinds of workers.
  defp transport(%{grpc?: true}), do: GRPC.Transport
  defp transport(%{grpc?: false}), do: Stdio.Transport

  defp check_reload(%{reload: false}, _facts), do: :ok

  defp check_reload(options, facts) do
    with {:error, message} <- Manager.check_replacement(options, facts) do
      message = "with reload: true " <> message
      {:error, %Error{reason: :invalid_options, pool: options.name, message: message}}
    end
  end

  defp await_started(supervisor, %{await_ready: false}), do: {:ok, supervisor}

  defp await_started(supervisor, %{await_ready: await, name: name}) do
    timeout = if await == true, do: :infinity, else: await

    with {:error, error} <- await(name, timeout, fn -> Process.alive?(supervisor) end) do
      error = if error.reason == :timeout, do: %{error | reason: :not_ready}, else: error
      Supervisor.stop(supervisor)

      # A caller that traps exits gets the error from the return value alone.
      receive do
        {:EXIT, ^supervisor, _reason} -> {:error, error}
      after
        0 -> {:error, error}
      end
    else
      :ok -> {:ok, supervisor}
    end
  catch
    # The supervisor has stopped on its own.
    :exit, _reason ->
      {:error, %Error{reason: :pool_stopped, pool: name, message: "the pool has stopped"}}
  end

  @doc """
  Waits until every worker is ready.

  Returns the error of a worker that could not start as soon as there is one (the pool keeps
  trying), or a `:timeout` after `timeout` ms. It also waits for a pool that was killed or has
  crashed, because its supervisor is about to restart it. A pool that was never started, or was
  stopped, is the error `:pool_stopped` at once. `{name, node}` waits for a pool on another node.
  """
  @doc since: "0.1.0"
  @spec await_ready(Snakepit.pool(), timeout) :: :ok | {:error, Error.t()}
  def await_ready(pool \\ __MODULE__, timeout \\ 30_000)

  def await_ready(pool, timeout) when is_tuple(pool),
    do: Relay.ask(pool, __MODULE__, :await_ready, [timeout])

  def await_ready(pool, timeout) do
    with :ok <- Options.check([timeout: timeout], %{timeout: :timeout}),
         do: await(pool, timeout, fn -> comes_back?(pool) end)
  end

  # Whether a pool that is gone may be started again: it was killed, or its supervisor is running.
  defp comes_back?(name) do
    with false <- Registry.published?(name),
         pid when is_pid(pid) <- Process.whereis(name),
         {:dictionary, dictionary} <- Process.info(pid, :dictionary) do
      match?({:supervisor, __MODULE__, 1}, dictionary[:"$initial_call"])
    else
      gone when gone in [nil, :undefined] -> false
      true -> true
    end
  end

  # `comes_back?` returns whether a pool that is gone may come back.
  defp await(pool, timeout, comes_back?) do
    until = if timeout != :infinity, do: now() + timeout
    await(pool, timeout, until, comes_back?)
  end

  defp await(pool, timeout, until, comes_back?) do
    left = if until, do: max(until - now(), 0), else: :infinity

    case ask_ready(pool, left) do
      {:error, %Error{reason: :pool_stopped}} = stopped ->
        if left > @return_poll and comes_back?.() do
          Process.sleep(@return_poll)
          await(pool, timeout, until, comes_back?)
        else
          stopped
        end

      :timeout ->
        with {:ok, workers} <- Diagnostics.list_workers(pool) do
          ready = Enum.count(workers, &(&1.state == :ready))

          message =
            "the pool was not ready within #{timeout} ms: " <>
              "#{ready} of #{length(workers)} #{what(workers)} are ready"

          {:error, %Error{reason: :timeout, pool: pool, message: message}}
        end

      answer ->
        answer
    end
  end

  defp ask_ready(pool, timeout) do
    with {:ok, %{manager: manager}} <- Registry.fetch(pool),
         do: GenServer.call(manager, :await_ready, timeout)
  catch
    :exit, {:timeout, _call} -> :timeout
    :exit, _stopped -> Diagnostics.stopped(pool)
  end

  defp what([%{endpoint: "" <> _} | _]), do: "endpoints"
  defp what(_workers), do: "workers"

  defp now, do: System.monotonic_time(:millisecond)

  @impl true
  def init({%{endpoints: endpoints} = options, _facts}) when endpoints != nil do
    children = [{Notifier, options.name}, WorkerSupervisor, {EndpointManager, {self(), options}}]
    Supervisor.init(children, strategy: :one_for_all)
  end

  def init({options, facts}) do
    # They stop in reverse: the manager first, so that nothing is started while workers stop; then the
    # workers, the directory of their sockets, and last the notifier, which emits the events of all.
    reloader = if options.reload, do: [{Reloader, options}], else: []

    children =
      [{Notifier, options.name}, {RuntimeDir, root: options.root}, WorkerSupervisor] ++
        reloader ++ [{Manager, {self(), options, facts}}]

    Supervisor.init(children, strategy: :one_for_all)
  end
end
