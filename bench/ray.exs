# Calls commands in replicas of Ray Serve through a remote pool, in both ways that the guide "Beyond one machine" compares, and
# measures them beside a local pool and a server by itself:
#
#     python3 -m venv ray && ray/bin/pip install 'ray[serve]==2.60.0' pyarrow
#     SNAKEPIT_RAY_PYTHON=ray/bin/python mix run bench/ray.exs
#
# It takes some minutes, and starts a Ray of its own twice. Exits with status 1 if one of the checks fails.
defmodule Snakepit.RayBench do
  @root Path.expand("..", __DIR__)
  @support Path.join(@root, "python/tests/support")
  @class "ray_commands:Commands"
  @patience 600_000
  @options %{num_replicas: 2, max_concurrency: 2, max_stream_ahead: 1000, init: %{model: "small"}}
  @ray_haproxy [
    {~c"RAY_SERVE_ENABLE_HA_PROXY", ~c"1"},
    {~c"RAY_SERVE_THROUGHPUT_OPTIMIZED", ~c"1"}
  ]
  @rounds 5

  def run(python) do
    Logger.configure(level: :error)
    start_pool(name: :local, size: 2, max_concurrency: 2, adapter_args: class())
    start_pool(name: :remote, endpoints: [server!()], max_concurrency: 4)

    for {name, variables, checks} <- [
          {"Ray's own proxy", [], &own_proxy/2},
          {"HAProxy and throughput mode", @ray_haproxy, &haproxy/2}
        ] do
      with_ray(python, variables, fn ray ->
        IO.puts("\n#{name}")
        :ok = say(ray, ["run", Map.put(@options, :sticky, variables == [])])
        pool = start(ray)
        checks.(ray, pool: pool, timeout: 60_000)
        :ok = say(ray, ["run", @options])
        succeeds(pool)
        measured(name, pool)
      end)
    end

    if Process.get(:failed), do: exit({:shutdown, 1})
  end

  # Checks

  defp own_proxy(ray, pool) do
    values(pool)
    cancelled(pool)
    streams(pool)
    sessions(pool)
    redeployed(ray, pool)
    killed(pool)
    scaled(ray, pool)
  end

  defp haproxy(ray, pool) do
    values(pool)
    cancelled(pool)
    path = file()

    slow = fn chunk ->
      Process.sleep(20)
      if chunk["number"] == 50, do: :halt
    end

    args = %{to: 1_000_000, size: 20_000, path: path}
    check("a slow consumer", Snakepit.execute_stream("numbers", args, slow, pool), &(&1 == :ok))
    "closed at " <> ahead = told(path, "closed at")
    check("its generator, closed at #{ahead}", String.to_integer(ahead), &(&1 < 5_000))
    redeployed(ray, pool)
    killed(pool)
  end

  defp values(pool) do
    sum = Snakepit.execute("compute", %{operation: "add", a: 1, b: 2}, pool)
    check("a result", sum, &match?({:ok, %{"result" => 3}}, &1))

    check(
      "an exception",
      Snakepit.execute("fail", %{}, pool),
      &match?(
        {:error, %{reason: :python_error, details: %{type: "ValueError", frames: [_ | _]}}},
        &1
      )
    )

    tensor = Snakepit.Tensor.new(<<1.5::float-32-little, 2.5::float-32-little>>, :float32, {2})
    echo = Snakepit.execute("echo", %{t: tensor}, pool)
    check("a tensor", echo, &match?({:ok, %{"t" => ^tensor}}, &1))
    {:ok, about} = Snakepit.execute("about", %{}, [timeout: 5_000] ++ pool)
    check("the deadline and init", about, &(&1["remaining"] <= 5 and &1["model"] == "small"))
  end

  defp cancelled(pool) do
    path = file()
    wait = Snakepit.execute("wait", %{path: path, seconds: 600}, [timeout: 500] ++ pool)
    check("a timeout", wait, &match?({:error, %{reason: :timeout}}, &1))
    check("it cancels the command", told(path, "cancelled"), &is_binary/1)
  end

  defp streams(pool) do
    numbers = fn to ->
      "numbers" |> Snakepit.stream(%{to: to}, pool) |> Enum.map(& &1["number"])
    end

    check("a stream", numbers.(1_000), &(&1 == Enum.to_list(0..999)))
    long = Snakepit.execute_stream("numbers", %{to: 1_000_000}, fn _ -> :ok end, pool)
    check("a longer one", long, &match?({:error, %{reason: :streaming_not_supported}}, &1))
  end

  defp sessions(pool) do
    session = [affinity: :server] ++ pool

    counts =
      for _ <- 1..20,
          {:ok, result} <- [Snakepit.execute_in_session("s", "remember", %{}, session)],
          do: result["calls"]

    check("a session", counts, &(&1 == Enum.to_list(1..20)))
  end

  defp redeployed(ray, pool) do
    actor = %{num_cpus: 0.1, runtime_env: %{env_vars: %{REVISION: "2"}}}

    errors =
      under_load(pool, fn ->
        :ok = say(ray, ["run", Map.put(@options, :ray_actor_options, actor)])
      end)

    check("a redeployment under load loses no call", errors, &(&1 == %{}))
    {:ok, about} = Snakepit.execute("about", %{}, pool)
    check("it has taken place", about["revision"], &(&1 == "2"))
  end

  defp killed(pool) do
    {:ok, about} = Snakepit.execute("about", %{}, pool)
    errors = under_load(pool, fn -> System.cmd("kill", ["-9", "#{about["pid"]}"]) end)
    check("a replica is killed", errors, &(Map.keys(&1) -- [:worker_crashed] == []))
    path = file()
    died = Snakepit.execute("die", %{path: path}, pool)
    check("a command ends its replica", died, &match?({:error, %{reason: :worker_crashed}}, &1))
    check("it ran once", File.read!(path), &(&1 == "dies\n"))
  end

  defp scaled(ray, pool) do
    scaled = %{min_replicas: 1, max_replicas: 2, target_ongoing_requests: 1, upscale_delay_s: 1}
    scaling = @options |> Map.delete(:num_replicas) |> Map.put(:autoscaling_config, scaled)
    :ok = say(ray, ["run", scaling])
    check("more replicas under load", replicas(pool, now()), & &1)
    none = %{min_replicas: 0, initial_replicas: 0, max_replicas: 1}
    :ok = say(ray, ["run", %{scaling | autoscaling_config: none}])
    first = fn -> Snakepit.execute("about", %{}, [timeout: @patience] ++ pool) end
    {time, result} = :timer.tc(first)
    check("the first call of 0 replicas, #{div(time, 1000)} ms", result, &match?({:ok, _}, &1))
  end

  # Calls by 8 callers while `change` happens; returns how many errors of each reason there were.
  defp under_load(pool, change) do
    stopped = :atomics.new(1, [])

    callers =
      for _ <- 1..8 do
        Task.async(fn ->
          Stream.repeatedly(fn -> Snakepit.execute("echo", %{a: 1}, pool) end)
          |> Enum.take_while(fn _ -> :atomics.get(stopped, 1) == 0 end)
        end)
      end

    change.()
    Process.sleep(2_000)
    :atomics.put(stopped, 1, 1)
    results = callers |> Task.await_many(@patience) |> Enum.concat()
    IO.puts("  #{length(results)} calls")
    for({:error, error} <- results, do: error.reason) |> Enum.frequencies()
  end

  # Whether more than one replica answers before the patience ends.
  defp replicas(pool, start) do
    call = fn -> Snakepit.execute("wait", %{path: "/dev/null", seconds: 1}, pool) end
    Enum.each(Task.await_many(for(_ <- 1..12, do: Task.async(call)), @patience), &({:ok, _} = &1))

    pids =
      for _ <- 1..30,
          {:ok, about} <- [Snakepit.execute("about", %{}, pool)],
          uniq: true,
          do: about["pid"]

    cond do
      length(pids) > 1 -> true
      now() - start > @patience -> false
      true -> replicas(pool, start)
    end
  end

  defp check(what, got, valid?) do
    holds = valid?.(got)
    unless holds, do: Process.put(:failed, true)

    IO.puts(
      "  #{if holds, do: "ok", else: "FAILED"} #{what}#{unless holds, do: ": #{inspect(got)}"}"
    )
  end

  # Figures

  # Replicas that were killed are started again.
  defp succeeds(pool) do
    case Snakepit.execute("about", %{}, pool: pool, timeout: 60_000) do
      {:ok, _about} ->
        :ok

      {:error, _not_yet} ->
        Process.sleep(100)
        succeeds(pool)
    end
  end

  # In turns, so that each meets the same load of the machine.
  defp measured(name, ray) do
    pools = [local: :local, remote: :remote, ray: ray]
    for {_, pool} <- pools, do: figures(pool)
    rounds = for _ <- 1..@rounds, do: for({kind, pool} <- pools, do: {kind, figures(pool)})
    local = medians(rounds, :local)
    IO.puts("  #{String.pad_trailing("#{name}, medians", 44)}times that of a local pool")

    for {kind, _} <- pools, {what, figure} <- medians(rounds, kind) do
      ratio = Float.round(figure / local[what], 3)
      shown = "  #{String.pad_trailing("#{kind}", 8)}#{String.pad_trailing(what, 24)}"
      IO.puts("#{shown}#{String.pad_trailing("#{round(figure)}", 12)}#{ratio}")
    end
  end

  defp medians(rounds, kind) do
    figures = for round <- rounds, do: round[kind]

    for {what, _} <- hd(figures) do
      {what,
       figures
       |> Enum.map(&:proplists.get_value(what, &1))
       |> Enum.sort()
       |> Enum.at(div(@rounds, 2))}
    end
    |> Map.new()
  end

  defp figures(pool) do
    args = %{a: String.duplicate("x", 1024)}
    call = fn -> {:ok, _} = Snakepit.execute("echo", args, pool: pool, timeout: @patience) end
    times = for(_ <- 1..100, do: elem(:timer.tc(call), 0)) |> Enum.sort()
    loop = fn -> for _ <- 1..20, do: call.() end
    callers = fn -> Task.await_many(for(_ <- 1..32, do: Task.async(loop)), @patience) end
    {time, _} = :timer.tc(callers)
    stream = fn -> "numbers" |> Snakepit.stream(%{to: 1_000}, pool: pool) |> Enum.count() end
    {stream_time, 1_000} = :timer.tc(stream)

    [
      {"p50 of 1 caller, µs", Enum.at(times, 50)},
      {"calls/s of 32 callers", 640 / (time / 1_000_000)},
      {"chunks/s", 1_000 / (stream_time / 1_000_000)}
    ]
  end

  # Pools, and what is behind them

  defp class, do: [class: @class, paths: [@support]]

  defp server! do
    env = [{~c"PYTHONPATH", to_charlist(Path.join(@root, "python"))}]
    # It ends when its standard input does.
    script = ~S("$@" & child=$!; cat > /dev/null; kill $child)
    python = Path.join(@root, ".venv/bin/python")
    server = ~w(-m snakepit_bridge --listen tcp:127.0.0.1:0 --max-concurrency 4)
    commands = ["--adapter", @class, "--import-path", @support]
    args = ["-c", script, "sh", python | server ++ commands]
    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, line: 1000, args: args, env: env])
    "listening on " <> address = receive(do: ({^port, {:data, {:eol, line}}} -> line))
    address
  end

  defp start(ray) do
    name = :"ray#{System.unique_integer([:positive])}"

    start_pool(
      name: name,
      endpoints: ["tcp:127.0.0.1:#{ray.number}"],
      calls: false,
      metadata: %{application: "commands"},
      max_concurrency: 32,
      connect_timeout: @patience
    )

    name
  end

  defp start_pool(options) do
    {:ok, _} = Snakepit.Pool.start_link(options)
    :ok = Snakepit.Pool.await_ready(options[:name], @patience)
  end

  defp with_ray(python, variables, use) do
    [grpc, http] = for _ <- 1..2, do: free_port()
    # Ray's sockets are in it: a path may have about a hundred bytes.
    folder = Path.join("/tmp", "sp-#{System.pid()}-#{grpc}")
    paths = "#{Path.join(@root, "python")}:#{@support}"
    settings = [{~c"PYTHONPATH", to_charlist(paths)}, {~c"RAY_USAGE_STATS_ENABLED", ~c"0"}]
    args = ["-u", Path.join(@support, "ray_driver.py"), "#{grpc}", "#{http}", folder]
    port = [:binary, :exit_status, :stderr_to_stdout, line: 100_000]
    open = port ++ [args: args, env: settings ++ variables]
    ray = %{port: Port.open({:spawn_executable, python}, open), number: grpc}

    try do
      :ok = answer(ray)
      use.(ray)
    after
      say(ray, ["stop"])
      File.rm_rf(folder)
    end
  end

  defp say(ray, what) do
    Port.command(ray.port, [json(what), "\n"])
    answer(ray)
  end

  defp answer(%{port: port} = ray) do
    receive do
      {^port, {:data, {:eol, "DONE" <> _}}} -> :ok
      {^port, {:data, {:eol, "FAILED" <> why}}} -> {:error, why}
      {^port, {:data, _other_output}} -> answer(ray)
      {^port, {:exit_status, status}} -> {:error, "the driver has ended with #{status}"}
    after
      @patience -> {:error, "no answer of the driver"}
    end
  end

  defp free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :gen_tcp.close(socket)
    port
  end

  defp file,
    do: Path.join(System.tmp_dir!(), "ray-#{System.pid()}-#{System.unique_integer([:positive])}")

  # The file's text, once it has this.
  defp told(path, text) do
    with {:ok, content} <- File.read(path), true <- content =~ text do
      content |> String.split("\n", trim: true) |> List.last()
    else
      _not_yet ->
        Process.sleep(20)
        told(path, text)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp json(%{} = map) do
    [
      "{",
      map
      |> Enum.map(fn {key, value} -> [inspect("#{key}"), ":", json(value)] end)
      |> Enum.intersperse(","),
      "}"
    ]
  end

  defp json(list) when is_list(list),
    do: ["[", list |> Enum.map(&json/1) |> Enum.intersperse(","), "]"]

  defp json(text) when is_binary(text), do: inspect(text)
  defp json(other), do: "#{other}"
end

case System.get_env("SNAKEPIT_RAY_PYTHON") do
  nil ->
    IO.puts(:stderr, "Name a Python with ray[serve] by SNAKEPIT_RAY_PYTHON: see bench/ray.exs")
    System.halt(2)

  python ->
    Snakepit.RayBench.run(Path.expand(python))
end
