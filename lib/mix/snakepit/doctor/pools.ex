defmodule Mix.Snakepit.Doctor.Pools do
  @moduledoc false
  # Finds the pools of the project: that of `config :snakepit`, and those that its applications
  # start.

  import Mix.Snakepit.Check

  alias Snakepit.Config.Environment

  @typedoc "The options of `Snakepit.Pool.start_link/1`."
  @type options :: keyword

  @doc "The configuration of the project, and the pool that it defines."
  @spec configured() :: {[Mix.Snakepit.Check.t()], [options]}
  def configured do
    Mix.Task.run("app.config")

    case Environment.default_pool() do
      {:ok, nil} ->
        {[ok("configuration", "valid; config :snakepit defines no pool")], []}

      {:ok, options} ->
        {[ok("configuration", "valid; config :snakepit defines Snakepit.Pool")], [options]}

      {:error, error} ->
        {[wrong(error.message)], []}
    end
  rescue
    error -> {[wrong(Exception.message(error))], []}
  end

  defp wrong(message),
    do: failed("configuration", message, "correct config/config.exs, or the file that it imports")

  @doc """
  Starts the applications of the project, stops them, and returns the options of each pool that they
  have started, or have tried to start.
  """
  @spec started() :: {[Mix.Snakepit.Check.t()], [options]}
  def started do
    before = started_applications()
    # What the applications log would hide the results.
    Application.load(:logger)
    Application.put_env(:logger, :level, :none)
    {:ok, _} = Application.ensure_all_started(:logger)
    :ok = :logger.set_primary_config(:level, :none)
    {result, pools} = traced(&start/0)
    :ok = :logger.set_primary_config(:level, :none)
    stop(started_applications() -- before)
    {[result], pools}
  end

  defp start do
    Mix.Task.run("app.start")
    ok("application", "#{Enum.map_join(apps(), ", ", &to_string/1)} starts")
  rescue
    error in Mix.Error ->
      failed(
        "application",
        Exception.message(error),
        "see the pools below; mix snakepit.doctor --no-start skips this check"
      )
  end

  defp apps do
    if Mix.Project.umbrella?(),
      do: Mix.Project.apps_paths() |> Map.keys() |> Enum.sort(),
      else: List.wrap(Mix.Project.config()[:app])
  end

  defp started_applications,
    do: for({app, _description, _version} <- Application.started_applications(), do: app)

  # The last one that was started comes first.
  defp stop(started) do
    ours = [:snakepit | apps()]
    for app <- started, app in ours, do: Application.stop(app)
  end

  # A supervisor calls `Snakepit.Pool.start_link/1` with the options, whatever comes of it.
  defp traced(fun) do
    {:module, _} = Code.ensure_loaded(Snakepit.Pool)
    :erlang.trace_pattern({Snakepit.Pool, :start_link, 1}, true, [])
    # The caller of `trace/3`, which receives the messages, is not traced itself.
    :erlang.trace(:all, true, [:call])
    result = fun.()
    :erlang.trace(:all, false, [:call])
    :erlang.trace_pattern({Snakepit.Pool, :start_link, 1}, false, [])
    {result, collect([])}
  end

  defp collect(pools) do
    receive do
      {:trace, _pid, :call, {Snakepit.Pool, :start_link, [options]}} -> collect([options | pools])
    after
      0 -> pools |> Enum.reverse() |> Enum.uniq_by(&name/1)
    end
  end

  @doc "The name of a pool with these options."
  @spec name(options) :: atom
  def name(options), do: Keyword.get(options, :name, Snakepit.Pool)
end
