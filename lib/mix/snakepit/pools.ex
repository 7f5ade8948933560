defmodule Mix.Snakepit.Pools do
  @moduledoc false
  # The pools that tasks call: those of the project, or one of one worker, for a task alone.

  alias Snakepit.Pool.Registry

  @name :"mix snakepit"

  @switches [pool: :string, class: :string, path: [:string, :keep], python: :string]

  @doc "The options of a task that calls a pool."
  @spec switches() :: keyword
  def switches, do: @switches

  @doc """
  Runs `fun` with the name of the pool that the options of a task choose: a new one for `--class`,
  otherwise one of the pools that the project's applications start. Log lines go to standard error.
  """
  @spec use(module, keyword, (atom -> result)) :: result when result: var
  def use(task, options, fun) do
    # Its standard output is for results: not even the compiler writes there.
    Mix.shell(Mix.Shell.Quiet)
    Mix.Task.run("app.config")
    log_to_stderr()

    if options[:class] do
      with_one(own(options), fn
        {:ok, pool}, _ms -> fun.(pool)
        {:error, error}, _ms -> Mix.raise(Exception.message(error))
      end)
    else
      for option <- [:path, :python],
          options[option],
          do: Mix.Snakepit.usage!(task, "--#{option} needs --class")

      Mix.Task.run("app.start")
      fun.(running!(options[:pool]))
    end
  end

  defp own(options) do
    if options[:pool], do: Mix.raise("pass either --pool or --class")
    args = [class: options[:class], paths: Keyword.get_values(options, :path)]
    python = if options[:python], do: [python: options[:python]], else: []
    [adapter_args: args] ++ python
  end

  defp running!(wanted) do
    case {Registry.names(), wanted} do
      {[name], nil} ->
        name

      {[], _} ->
        Mix.raise(
          "no pool is running: define one in the project's supervision tree, or pass --class module:Class"
        )

      {names, nil} ->
        Mix.raise("there are several pools: pass --pool with one of #{shown(names)}")

      {names, _} ->
        Enum.find(names, &named?(&1, wanted)) ||
          Mix.raise("there is no pool #{wanted}; the pools are #{shown(names)}")
    end
  end

  @doc "Whether a user means this pool: `--pool MyApp.Python`, or `--pool python` for `:python`."
  @spec named?(atom, String.t()) :: boolean
  def named?(name, wanted), do: inspect(name) in [wanted, ":" <> wanted]

  defp shown(names), do: Enum.map_join(names, ", ", &inspect/1)

  # Logger reads it when it starts, and Mix may have started it. Elixir 1.14 reads the first one, newer ones
  # the second one.
  defp log_to_stderr do
    # It logs its own end, and its start.
    level = :logger.get_primary_config().level
    :logger.set_primary_config(:level, :none)
    Application.stop(:logger)
    # Its defaults would replace what is set before.
    Application.load(:logger)
    console = Application.get_env(:logger, :console, [])
    Application.put_env(:logger, :console, Keyword.put(console, :device, :standard_error))
    handler = [config: [type: :standard_error]]

    case Application.get_env(:logger, :default_handler, []) do
      false -> :ok
      given -> Application.put_env(:logger, :default_handler, Keyword.merge(given, handler))
    end

    {:ok, _} = Application.ensure_all_started(:logger)
    :logger.set_primary_config(:level, level)
  end

  @doc "The commands of a pool, once a worker is ready, as `Snakepit.commands/1` returns them."
  @spec commands(atom) :: {:ok, [map]} | {:error, Snakepit.Error.t()}
  def commands(pool) do
    with :ok <- Snakepit.Pool.await_ready(pool, :infinity), do: Snakepit.commands(pool)
  end

  @doc """
  Starts a pool of one worker, or of the endpoints, with the given options, runs `fun` with `{:ok, name}` and the time in
  ms until the worker was ready, or with `{:error, error}`, and stops the pool.
  """
  @spec with_one(keyword, ({:ok, atom} | {:error, Snakepit.Error.t()}, non_neg_integer -> result)) ::
          result
        when result: var
  def with_one(options, fun) do
    processes = if options[:endpoints], do: [], else: [size: 1, reload: false]
    own = [name: @name, await_ready: true] ++ processes
    trap = Process.flag(:trap_exit, true)
    {time, started} = :timer.tc(fn -> Snakepit.Pool.start_link(Keyword.merge(options, own)) end)
    ms = div(time, 1000)

    try do
      case started do
        {:ok, _supervisor} -> fun.({:ok, @name}, ms)
        {:error, error} -> fun.({:error, error}, ms)
      end
    after
      with {:ok, supervisor} <- started, do: stop(supervisor)
      Process.flag(:trap_exit, trap)
    end
  end

  defp stop(supervisor) do
    Supervisor.stop(supervisor)
    receive do: ({:EXIT, ^supervisor, _reason} -> :ok)
  end
end
