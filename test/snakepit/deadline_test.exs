defmodule Snakepit.DeadlineTest do
  # Deadlines hold while the native library's only thread is stopped. It is stopped as by a
  # debugger, in a BEAM of its own.
  use ExUnit.Case, async: true

  @python Path.expand(".venv/bin/python")
  @stop_thread Path.expand("test/support/python/stop_thread.py")

  # `stop.()` stops the thread. `each.(calls)` runs each call in a process of its own, reports its
  # result, resumes the thread, and reports late messages.
  @preamble """
  Logger.configure(level: :none)
  Application.put_env(:snakepit, :runtime_threads, 1)
  start = fn options ->
    {:ok, pid} = Snakepit.Pool.start_link(Keyword.merge([health_interval: 600_000, size: 1], options))
    pid
  end
  ready = fn options ->
    start.([startup_timeout: 60_000] ++ options)
    :ok = Snakepit.Pool.await_ready(options[:name], 60_000)
    {:ok, _} = Snakepit.execute("ping", %{}, pool: options[:name], timeout: 60_000)
  end
  stop = fn ->
    args = ["#{@stop_thread}", System.pid(), "snakepit-io"]
    port = Port.open({:spawn_executable, "#{@python}"}, [:binary, line: 100, args: args])
    receive do {^port, {:data, {:eol, said}}} -> IO.puts("thread: " <> said) end
    port
  end
  start_each = fn calls ->
    waiting = self()
    for {name, call} <- calls do
      Task.async(fn ->
        result = try do call.() rescue error in Snakepit.Error -> {:error, error} end
        IO.puts("result: \#{name} \#{with {:error, error} <- result, do: error.reason}")
        send(waiting, :ended)
        receive do :go_on -> :ok end
        # Late messages reach nobody.
        {:messages, messages} = Process.info(self(), :messages)
        IO.puts("late: \#{name} \#{inspect(messages)}")
      end)
    end
  end
  finish = fn tasks, port ->
    for _ <- tasks, do: (receive do :ended -> :ok end)
    Port.close(port)
    # The thread has resumed: this is answered after everything before it.
    {:ok, _} = Snakepit.execute("ping", %{}, pool: P, timeout: 60_000)
    for task <- tasks, do: send(task.pid, :go_on)
    Task.await_many(tasks, 60_000)
    System.halt(0)
  end
  failed = fn failed, call ->
    receive do
      {:snakepit, ref, {:error, error}} when ref == call.ref -> {:error, error}
      {:snakepit, ref, _chunks} when ref == call.ref -> failed.(failed, call)
    end
  end
  messages = fn command, args, options ->
    {:ok, call} = Snakepit.start_stream(command, args, options)
    failed.(failed, call)
  end
  """

  @tag timeout: 180_000
  test "the deadlines of calls and streams hold, queued or running, with each kind of worker" do
    timed_out(~w(unary session stream lazy messages stdio), """
    commands = [class: "trouble:Trouble", paths: ["test/support/python"]]
    ready.(name: P, adapter_args: commands, max_concurrency: 8)
    ready.(name: Stdio, adapter: Snakepit.Adapters.GenericPythonV2, adapter_args: commands)
    # Its only place is taken, so further calls wait in the queue. If it ends, so does this BEAM.
    spawn_link(fn ->
      {:ok, _} = Snakepit.execute("sleep", %{seconds: 3600}, pool: Stdio, timeout: :infinity)
    end)
    busy? = fn busy? ->
      {:ok, stats} = Snakepit.stats(Stdio)
      unless stats.in_flight == 1, do: busy?.(busy?)
    end
    busy?.(busy?)
    port = stop.()
    on = [pool: P, timeout: 500]
    tasks = start_each.(
      unary: fn -> Snakepit.execute("sleep", %{seconds: 3600}, on) end,
      session: fn -> Snakepit.execute_in_session("s", "sleep", %{seconds: 3600}, on) end,
      stream: fn -> Snakepit.execute_stream("ping_stream", %{count: 3}, & &1, on) end,
      lazy: fn -> "ping_stream" |> Snakepit.stream(%{count: 3}, on) |> Enum.to_list() end,
      messages: fn -> messages.("ping_stream", %{count: 3}, on) end,
      stdio: fn -> Snakepit.execute("ping", %{}, pool: Stdio, timeout: 500, queue_timeout: 500) end
    )
    finish.(tasks, port)
    """)
  end

  @tag timeout: 180_000
  test "the deadlines of the first chunk and of each further chunk hold" do
    timed_out(~w(first first_lazy first_messages idle idle_lazy idle_messages), """
    ready.(name: P, max_concurrency: 6)
    waiting = self()
    # One chunk has arrived, and the next one is requested while the thread is stopped.
    begun = fn ->
      send(waiting, :begun)
      receive do :stopped -> :ok end
    end
    args = %{count: 3}
    idle = [pool: P, timeout: :infinity, demand: 1, idle_timeout: 500]
    late = start_each.(
      idle: fn -> Snakepit.execute_stream("ping_stream", args, fn _ -> begun.() end, idle) end,
      idle_lazy: fn ->
        "ping_stream" |> Snakepit.stream(args, idle) |> Enum.each(fn _ -> begun.() end)
      end,
      idle_messages: fn ->
        {:ok, call} = Snakepit.start_stream("ping_stream", args, idle)
        receive do {:snakepit, ref, {:chunks, [_]}} when ref == call.ref -> begun.() end
        Snakepit.ask(call, 1)
        failed.(failed, call)
      end
    )
    for _ <- late, do: (receive do :begun -> :ok end)
    port = stop.()
    for task <- late, do: send(task.pid, :stopped)
    on = [pool: P, timeout: :infinity, first_chunk_timeout: 500]
    first = start_each.(
      first: fn -> Snakepit.execute_stream("ping_stream", args, & &1, on) end,
      first_lazy: fn -> "ping_stream" |> Snakepit.stream(args, on) |> Enum.to_list() end,
      first_messages: fn -> messages.("ping_stream", args, on) end
    )
    finish.(late ++ first, port)
    """)
  end

  @tag timeout: 180_000
  test "the deadlines of connections and of queries to servers and pools hold" do
    timed_out(
      ~w(connect health get_info),
      """
      alias Snakepit.GRPC.Client
      ready.(name: P)
      [socket] = Path.wildcard(Path.join(System.tmp_dir!(), "snakepit-*/*.sock"))
      {:ok, channel} = Client.connect("unix:" <> socket)
      {:ok, %{"healthy" => true}} = Client.health(channel)
      port = stop.()
      tasks = start_each.(
        connect: fn -> Client.connect("unix:" <> socket, timeout: 500) end,
        health: fn -> Client.health(channel, timeout: 500) end,
        get_info: fn -> Client.get_info(channel, timeout: 500) end,
        pool_health: fn ->
          {:ok, %{healthy: false}} = Snakepit.health(P)
          {:error, %{reason: :unhealthy}}
        end,
        pool_info: fn ->
          {:ok, %{version: nil}} = Snakepit.info(P)
          {:error, %{reason: :unknown}}
        end,
        pool: fn ->
          pool = start.(name: Late, startup_timeout: 500)
          Process.unlink(pool)
          result = Snakepit.Pool.await_ready(Late, 120_000)
          Supervisor.stop(pool)
          result
        end
      )
      finish.(tasks, port)
      """,
      ["pool_health unhealthy", "pool_info unknown", "pool worker_start_failed"]
    )
  end

  defp timed_out(names, script, others \\ []) do
    directory = Path.join(System.tmp_dir!(), "late-#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    args = ["-pa", Application.app_dir(:snakepit, "ebin"), "-e", @preamble <> script]
    env = [{"TMPDIR", directory}]
    {output, 0} = System.cmd("elixir", args, stderr_to_stdout: true, env: env)
    lines = String.split(output, "\n")

    if "thread: stopped" in lines do
      for result <- Enum.map(names, &"#{&1} timeout") ++ others do
        assert "result: #{result}" in lines, output
        [name | _] = String.split(result)
        assert "late: #{name} []" in lines, output
      end
    else
      IO.puts("not tested, as no thread may be stopped here: #{output}")
    end
  end
end
