defmodule Snakepit.Pool do
  @moduledoc """
  A pool of workers, in your own supervision tree:

      children = [
        {Snakepit.Pool,
         name: MyApp.Python,
         size: 4,
         adapter_args: [class: "my_app.commands:Commands", paths: ["python"]]}
      ]

      Snakepit.execute("summarize", %{text: text}, pool: MyApp.Python)

  Any number of pools can run. The application's environment describes the one that it starts by
  itself, with the default name `Snakepit.Pool`, as the end of this page tells.

  Workers start concurrently. Calls that come before one is ready wait in the queue; while none can
  be started they fail with `:worker_start_failed` and the reason, and the pool keeps trying.

  ## Options

  #{Snakepit.Config.table()}

  ## Configuration

      config :snakepit,
        adapter_module: Snakepit.Adapters.GRPCPython,
        adapter_args: [class: "my_app.commands:Commands", paths: ["python"]],
        fallback_adapter: Snakepit.Adapters.GenericPythonV2,
        pool_config: %{pool_size: 4, max_concurrency: 1, max_queue: 1_000},
        grpc_config: %{transport: :tcp, base_port: 50_051, port_range: 100}

  Each key is an option of the pool. They are checked when the application starts, as options are when
  a pool does. `runtime_threads`, beside them, is how many threads the native library has for all pools
  together.

  #{Snakepit.Config.Environment.tables()}
  """
  use Supervisor

  alias Snakepit.{Config, Error}
  alias Snakepit.Config.Paths
  alias Snakepit.Pool.{Manager, Notifier, RuntimeDir, WorkerSupervisor}

  @doc false
  def child_spec(options) do
    unless Keyword.keyword?(options),
      do: raise(ArgumentError, "expected a keyword list of options, got: #{inspect(options)}")

    # A supervisor starts the pool anew with these options, whatever the current directory is then.
    options = Keyword.update(options, :root, Paths.root(), &Paths.root/1)

    %{
      id: {__MODULE__, Keyword.get(options, :name, __MODULE__)},
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor
    }
  end

  @doc "Starts a pool. Returns `{:error, %Snakepit.Error{}}` when an option is wrong."
  @spec start_link(keyword) :: Supervisor.on_start() | {:error, Error.t()}
  def start_link(options \\ []) do
    with {:ok, options} <- Config.pool(options) do
      Supervisor.start_link(__MODULE__, options, name: options.name)
    end
  end

  @doc """
  Waits until every worker is ready.

  Returns the error of a worker that could not start as soon as there is one (the pool goes on
  trying), or a `:timeout` after `timeout` ms.
  """
  @spec await_ready(atom, timeout) :: :ok | {:error, Error.t()}
  def await_ready(pool \\ __MODULE__, timeout \\ 30_000) do
    with :ok <- Config.check([timeout: timeout], %{timeout: :timeout}),
         {:ok, %{manager: manager}} <- Manager.fetch(pool) do
      GenServer.call(manager, :await_ready, timeout)
    end
  catch
    :exit, {:timeout, _call} ->
      message = "the pool was not ready within #{timeout} ms"
      {:error, %Error{reason: :timeout, pool: pool, message: message}}

    :exit, _stopped ->
      {:error, %Error{reason: :pool_stopped, pool: pool, message: "the pool has stopped"}}
  end

  @impl true
  def init(options) do
    # The manager stops first, so that nothing is started while workers stop, the directory of their
    # sockets is removed when they are gone, and the notifier stops last, with what all have told.
    children = [
      {Notifier, options.name},
      {RuntimeDir, root: options.root},
      WorkerSupervisor,
      {Manager, {self(), options}}
    ]

    Supervisor.init(children, strategy: :one_for_all)
  end
end
