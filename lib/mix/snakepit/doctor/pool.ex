defmodule Mix.Snakepit.Doctor.Pool do
  @moduledoc false
  # The checks of one pool: its options, its Python, the bridge, its adapter, and a worker that is
  # started and called. Of a remote pool: its options, and whether its endpoints are ready.

  import Mix.Snakepit, only: [shown: 1]
  import Mix.Snakepit.Check

  alias Mix.Snakepit.{Pools, Program, Venv}
  alias Snakepit.{Adapter, Adapters, Config, Native}
  alias Snakepit.Config.Env

  @doc "The checked options, with their defaults."
  def options(given) do
    with {:ok, %{endpoints: nil} = options} <- Config.pool(given),
         :ok <- Adapter.validate_options(options.adapter, options),
         {:ok, _facts} <- Adapter.facts(options.adapter),
         do: {:ok, options}
  end

  @doc "Makes the checks in turn, until one fails, and hands each result to `report`."
  def check(given, report) do
    with {:ok, %{endpoints: nil} = options} <- step(report, fn -> valid(given) end),
         {:ok, command} <- step(report, fn -> command(options) end),
         :ok <- python(options, command, report) do
      step(report, fn -> worker(given, options) end)
    else
      {:ok, _remote} -> step(report, fn -> endpoints(given) end)
      :failed -> :failed
    end
  end

  defp endpoints(given) do
    Pools.with_one(given, fn
      {:ok, pool}, ms ->
        {:ok, workers} = Snakepit.list_workers(pool)
        ok("endpoints", "#{length(workers)} ready after #{ms} ms")

      {:error, error}, _ms ->
        failed("endpoints", error.message, "start the servers, or correct the options")
    end)
  end

  # A check returns itself, or itself and what the next ones need.
  defp step(report, check) do
    {check, value} = with(%{} = check <- check.(), do: {check, nil})
    report.(check)

    cond do
      check.status == :failed -> :failed
      value == nil -> :ok
      true -> {:ok, value}
    end
  end

  defp valid(given) do
    case options(given) do
      {:ok, options} ->
        {ok("options", "valid"), options}

      {:error, error} ->
        failed("options", error.message, "correct the options of {Snakepit.Pool, ...}")
    end
  end

  defp command(options) do
    # The options are valid: it was called for this slot.
    {:ok, env} = Env.of_slot(options.env, 0)
    options = %{options | env: env}
    worker = %{id: "doctor", slot: 0, listen: "unix:/nowhere", options: options}

    case Adapter.command(options.adapter, worker) do
      {:ok, {executable, args, env, _input}} ->
        env = Map.merge(Map.new(options.env), env)
        {ok("executable", shown(executable)), %{executable: executable, args: args, env: env}}

      {:error, message} ->
        failed("executable", message, "mix snakepit.setup")
    end
  end

  defp python(%{adapter: adapter} = options, command, report)
       when adapter in [Adapters.GRPCPython, Adapters.GenericPythonV2] do
    run = &run(command, &1, &2, options)

    with {:ok, facts} <- step(report, fn -> version(run) end),
         :ok <- step(report, fn -> bridge(run, facts) end),
         fix = server_fix(options.server, facts, command.executable),
         :ok <- server(adapter, options, run, fix, report),
         do: step(report, fn -> adapter(command, options, run) end)
  end

  # An adapter of the user's own: only its worker can tell.
  defp python(_options, _command, _report), do: :ok

  defp run(command, code, args, options) do
    Program.run(command.executable, ["-c", code | args],
      cd: options.root,
      env: command.env,
      timeout: options.startup_timeout
    )
  end

  @setup "mix snakepit.setup"

  @facts """
  import sys
  prefix = sys.prefix if sys.prefix != sys.base_prefix else ""
  new = "yes" if sys.version_info >= (3, 9) else "no"
  print("\\n".join([sys.version.split()[0], prefix, new, sys.abiflags]))
  """

  defp version(run) do
    case run.(@facts, []) do
      {output, 0} ->
        case output |> String.split("\n") |> Enum.take(-5) |> Enum.take(4) do
          [version, prefix, new?, flags] ->
            version(version, new?, %{prefix: prefix, free_threaded?: flags =~ "t"})

          _no_facts ->
            failed(
              "Python",
              "expected a Python, got a program that prints #{inspect(output)}",
              @setup
            )
        end

      other ->
        failed("Python", broken(other), @setup)
    end
  end

  defp version(version, new?, %{prefix: prefix} = facts) do
    place = if prefix == "", do: "no virtual environment", else: "in #{shown(prefix)}"
    problem = if prefix != "", do: prefix |> Venv.new(nil) |> Venv.mismatch(version)

    cond do
      new? == "no" -> failed("Python", "#{version} is too old", too_old())
      problem -> failed("Python", problem, "delete #{shown(prefix)}, then mix snakepit.setup")
      true -> {ok("Python", "#{version}, #{place}"), facts}
    end
  end

  # The pool may name the Python that it has now.
  defp too_old do
    "mix snakepit.setup --python 3.12 --venv .venv-new, " <>
      ~s(and python: ".venv-new/bin/python" in the pool's options)
  end

  @bridge "import snakepit_bridge as b; print(b.__version__); print(b.__file__)"

  defp bridge(run, facts) do
    wanted = to_string(Application.spec(:snakepit, :vsn))

    case run.(@bridge, []) do
      {output, 0} ->
        [version, file] = output |> String.split("\n", trim: true) |> Enum.take(-2)

        if version == wanted,
          do: ok("bridge", "snakepit_bridge #{version}#{linked(facts)}"),
          else:
            failed(
              "bridge",
              "#{file} is version #{version}, not #{wanted}",
              "mix deps.compile snakepit --force"
            )

      other ->
        failed("bridge", broken(other), "mix deps.compile snakepit --force")
    end
  end

  defp linked(%{prefix: ""}), do: ""

  defp linked(%{prefix: prefix}) do
    case Path.wildcard(Path.join(prefix, "lib/python*/site-packages/snakepit_bridge{.pth,}")) do
      [] -> "; editors do not find it: mix snakepit.setup"
      _ -> ""
    end
  end

  @server "from snakepit_bridge._cli.choice import grpc_server; import sys; grpc_server(sys.argv[1] or None)"

  # Workers over stdin and stdout need none.
  defp server(Adapters.GenericPythonV2, _options, _run, _fix, _report), do: :ok

  defp server(_adapter, options, run, fix, report) do
    step(report, fn ->
      case run.(@server, [to_string(options.server)]) do
        {output, 0} -> ok("server", String.trim("#{options.server || "loads"} #{output}"))
        {output, status} -> failed("server", broken({output, status}), fix)
      end
    end)
  end

  defp server_fix(:grpcio, _facts, _python), do: "mix snakepit.setup --grpcio"

  # A compilation builds the extension for all others.
  defp server_fix(_native, %{free_threaded?: true}, python),
    do: "mix snakepit.setup --python #{shown(python)}"

  defp server_fix(_native, _facts, _python), do: "mix deps.compile snakepit --force"

  @adapter """
  import sys
  from snakepit_bridge._cli.loading import find_adapter
  from snakepit_bridge._errors.exits import StartError
  try:
      find_adapter(sys.argv[1], sys.argv[2:])
  except StartError as error:
      raise SystemExit(str(error))
  """

  defp adapter(command, options, run) do
    class = options.adapter_args[:class]
    paths = for ["--import-path", path] <- Enum.chunk_every(command.args, 2, 1), do: path

    case class && run.(@adapter, [class | paths]) do
      nil -> ok("adapter", "the built-in commands")
      {_output, 0} -> ok("adapter", "#{class} is imported")
      other -> failed("adapter", broken(other), adapter_fix(other))
    end
  end

  defp adapter_fix({output, _status}) do
    case Regex.run(~r/(No module named|no module) '(\w+)/, output) do
      # That of the class itself.
      [_, "no module", module] ->
        "add the directory of #{module}.py to paths:, or correct the name in class:"

      [_, _, module] ->
        "install #{module}: mix snakepit.setup with it in requirements.txt, or add its directory to paths:"

      nil ->
        "correct the Python code; `python -m snakepit_bridge commands module:Class` runs the same import"
    end
  end

  defp broken({output, :timeout}), do: "no answer within the pool's :startup_timeout\n" <> output
  defp broken({output, status}), do: tail(output) || "ended with status #{status} and no output"

  # The end of a traceback says what is wrong.
  defp tail(output) do
    case output |> String.trim() |> String.split("\n") |> Enum.take(-20) do
      [""] -> nil
      lines -> Enum.join(lines, "\n")
    end
  end

  # No command of the user's runs: that there is none of this name is an answer as well.
  @unknown "snakepit doctor"

  defp worker(given, options) do
    if Native.load_error(),
      do: skipped("worker", "needs the native library"),
      else: Pools.with_one(given, &called(&1, &2, options))
  end

  defp called({:error, error}, _ms, _options),
    do: failed("worker", error.message, "see the message, and the fixes above")

  defp called({:ok, pool}, ms, options) do
    {time, answer} =
      :timer.tc(fn ->
        Snakepit.execute(@unknown, %{}, pool: pool, timeout: options.startup_timeout)
      end)

    case answer do
      {:error, %{reason: reason} = error} when reason != :unknown_command ->
        failed(
          "worker",
          "ready in #{ms} ms, but a call failed: #{error.message}",
          "see the message"
        )

      _answered ->
        ok(
          "worker",
          "ready in #{ms} ms#{count(pool)}; a call took #{Float.round(time / 1000, 1)} ms"
        )
    end
  end

  defp count(pool) do
    case Snakepit.commands(pool) do
      {:ok, commands} -> ", #{length(commands)} commands"
      {:error, _error} -> ""
    end
  end
end
