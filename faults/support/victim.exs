defmodule Snakepit.Faults.Victim do
  @moduledoc false
  # What a BEAM does that is to be killed, and that faults/support/beam.exs has started: `main(["SITUATION", "OPTIONS"])`.
  # Its messages begin with "@".

  @paths for folder <- ~w(faults/python test/support/python), do: Path.expand(folder)
  @size 2
  @patience 60_000

  def main([situation, options]) do
    {:ok, _} = Application.ensure_all_started(:snakepit)
    {options, _} = Code.eval_string(options)
    say("victim #{System.pid()}")
    Logger.configure(level: :warning)
    situation(situation, options)
    Process.sleep(:infinity)
  end

  # As in a release: the pool belongs to the application, which SIGTERM stops.
  defp situation("serving", options) do
    {kind, started, until} = {options[:kind], options[:started], options[:until]}
    Application.put_env(:snakepit, :pool_config, %{pool_size: 1, shutdown_timeout: @patience})
    Application.put_env(:snakepit, :adapter_args, class: "fault_commands:Faults", paths: @paths)
    how = kinds()[kind]
    if how[:server], do: Application.put_env(:snakepit, :grpc_config, %{server: how[:server]})
    if how[:adapter], do: Application.put_env(:snakepit, :adapter_module, how[:adapter])
    Application.stop(:snakepit)
    {:ok, _} = Application.ensure_all_started(:snakepit)
    :ok = Snakepit.Pool.await_ready(Snakepit.Pool, @patience)
    {:ok, [%{os_pid: os_pid}]} = Snakepit.list_workers()
    say("worker #{os_pid}")
    call("running", "hold", %{started: started, until: until})
    wait(fn -> File.exists?(started) end)
    for n <- 1..4, do: call("queued#{n}", "add", %{a: n})
    wait(fn -> match?({:ok, %{queued: 4}}, Snakepit.stats()) end)
    say("ready")
    stopped(Snakepit.Pool)
    say("stopping")
  end

  defp situation("starting", options) do
    start(kinds(), env: %{"FAULTS_HOLD" => options[:hold]})
    say("ready")
  end

  defp situation(situation, options) do
    # The file appears later: workers started after that do not become ready.
    pools = start(kinds(), env: %{"FAULTS_HOLD" => options[:hold]})
    for {_kind, pool, _pid} <- pools, do: :ok = Snakepit.Pool.await_ready(pool, @patience)
    for pool <- pools, do: act(situation, pool, options)
    say("ready")
  end

  defp act("idle", _pool, _options), do: :ok

  defp act("calls", {kind, pool, _}, options) do
    {:ok, %{"group" => group, "session" => session}} =
      Snakepit.execute("grandchildren", %{}, pool: pool)

    say("child #{group}")
    say("apart #{session}")
    hold(kind, pool, options, "sleep_holding_the_gil", %{})
    hold(kind, pool, options, "sleep", %{seconds: 600})
    queued(pool)
  end

  defp act("streams", {:stdio, _, _}, _options), do: :ok

  defp act("streams", {_kind, pool, _}, _options) do
    me = self()

    for n <- 1..@size do
      closed = Path.join(System.tmp_dir!(), "closed#{n}")

      spawn(fn ->
        Snakepit.execute_stream(
          "endless",
          %{closed: closed},
          fn chunk -> if chunk["index"] == 100, do: send(me, :streams) end,
          pool: pool,
          timeout: :infinity
        )
      end)

      receive do: (:streams -> :ok)
    end

    queued(pool)
  end

  defp act("two-way", {kind, pool, _}, _options) do
    me = self()
    begun = fn -> send(me, :begun) end

    stuck = fn _args ->
      begun.()
      Process.sleep(:infinity)
    end

    args = %{path: "/dev/null", token: 0}
    asking = Map.merge(args, %{tool: "stuck", count: 1})
    options = [pool: pool, timeout: :infinity]
    ask = &Snakepit.execute(&1, asking, [tools: [stuck: stuck]] ++ options)
    spawn(fn -> ask.("mark_asks") end)

    if kind == :stdio do
      spawn(fn -> ask.("mark_asks_async") end)
    else
      rows = Map.put(args, :rows, Snakepit.input(Stream.iterate(1, &(&1 + 1))))
      chunk = fn %{"index" => index} -> if index == 100, do: begun.() end
      spawn(fn -> Snakepit.execute_stream("mark_both_ways", rows, chunk, options) end)
    end

    for _ <- 1..2, do: receive(do: (:begun -> :ok))
    queued(pool)
  end

  defp act("stopping", {kind, pool, pid}, options) do
    for _ <- 1..@size, do: hold(kind, pool, options, "sleep", %{seconds: 600})
    spawn(fn -> Supervisor.stop(pid) end)
    stopped(pool)
  end

  defp act("restarting", {_kind, pool, _}, options) do
    {:ok, [%{os_pid: os_pid} | _]} = Snakepit.list_workers(pool)
    File.touch!(options[:hold])
    System.cmd("kill", ["-KILL", to_string(os_pid)])
    starting(pool)
  end

  defp starting(pool) do
    case Snakepit.list_workers(pool) do
      {:ok, workers} -> if Enum.all?(workers, &(&1.state == :ready)), do: starting(pool)
      {:error, _} -> starting(pool)
    end
  end

  defp stopped(pool) do
    case Snakepit.execute("add", %{a: 1}, pool: pool, timeout: 1_000) do
      {:error, %{reason: :pool_stopped}} -> :ok
      _ -> stopped(pool)
    end
  end

  # Runs a command in a process of its own; returns once it is running.
  defp hold(kind, pool, _options, command, args) do
    started =
      Path.join(System.tmp_dir!(), "started-#{kind}-#{System.unique_integer([:positive])}")

    args = Map.put(args, :started, started)
    spawn(fn -> Snakepit.execute(command, args, pool: pool, timeout: :infinity) end)
    wait(fn -> File.exists?(started) end)
  end

  # In a process of its own, which reports how it has ended.
  defp call(name, command, args) do
    spawn(fn ->
      case Snakepit.execute(command, args, timeout: :infinity, queue_timeout: :infinity) do
        {:ok, _} -> say("call #{name} ok")
        {:error, error} -> say("call #{name} #{error.reason}: #{error.message}")
      end
    end)
  end

  defp queued(pool),
    do: for(_ <- 1..4, do: spawn(fn -> Snakepit.execute("add", %{a: 1}, pool: pool) end))

  defp start(kinds, options) do
    for {kind, how} <- kinds do
      name = :"victim#{System.pid()}_#{kind}"
      {:ok, pid} = Snakepit.Pool.start_link(options(name) ++ how ++ options)
      # Its end must not end anything here.
      Process.unlink(pid)
      {kind, name, pid}
    end
  end

  defp options(name) do
    [
      name: name,
      size: @size,
      shutdown_timeout: @patience,
      adapter_args: [class: "fault_commands:Faults", paths: @paths]
    ]
  end

  defp kinds do
    [
      native: [server: :native],
      grpcio: [server: :grpcio],
      stdio: [adapter: Snakepit.Adapters.GenericPythonV2]
    ]
  end

  defp wait(condition) do
    unless condition.() do
      Process.sleep(5)
      wait(condition)
    end
  end

  defp say(text), do: IO.puts("@" <> text)
end
