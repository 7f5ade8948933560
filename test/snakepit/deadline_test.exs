defmodule Snakepit.DeadlineTest do
  # Deadlines hold while the native library's only thread stands still. It is stopped as a debugger
  # stops it, in a BEAM of its own.
  use ExUnit.Case, async: true

  @python Path.expand(".venv/bin/python")
  @stop_thread Path.expand("test/support/python/stop_thread.py")

  @tag timeout: 180_000
  test "of calls and streams, queued or running, over each way to a worker" do
    script = """
    Logger.configure(level: :none)
    Application.put_env(:snakepit, :runtime_threads, 1)
    stdio = [name: Stdio, adapter: Snakepit.Adapters.GenericPythonV2, size: 1]
    patient = [startup_timeout: 60_000, health_interval: 600_000]
    for options <- [[name: P, size: 1], stdio] do
      {:ok, _} = Snakepit.Pool.start_link(options ++ patient)
      :ok = Snakepit.Pool.await_ready(options[:name], 60_000)
      {:ok, _} = Snakepit.execute("ping", %{}, pool: options[:name], timeout: 60_000)
    end
    # Its only place is taken: further calls wait in the queue.
    spawn(fn -> Snakepit.execute("sleep", %{seconds: 60}, pool: Stdio, timeout: :infinity) end)
    busy? = fn busy? ->
      {:ok, stats} = Snakepit.stats(Stdio)
      unless stats.in_flight == 1, do: busy?.(busy?)
    end
    busy?.(busy?)

    args = ["#{@stop_thread}", System.pid(), "snakepit-io"]
    port = Port.open({:spawn_executable, "#{@python}"}, [:binary, line: 100, args: args])
    receive do {^port, {:data, {:eol, said}}} -> IO.puts("thread: " <> said) end

    on = [pool: P, timeout: 500]
    calls = [
      unary: fn -> Snakepit.execute("ping", %{}, on) end,
      session: fn -> Snakepit.execute_in_session("s", "ping", %{}, on) end,
      stream: fn -> Snakepit.execute_stream("ping_stream", %{count: 3}, & &1, on) end,
      lazy: fn -> "ping_stream" |> Snakepit.stream(%{count: 3}, on) |> Enum.to_list() end,
      stdio: fn -> Snakepit.execute("ping", %{}, pool: Stdio, timeout: 500, queue_timeout: 500) end
    ]
    waiting = self()
    tasks = for {name, call} <- calls do
      Task.async(fn ->
        result = try do call.() rescue error in Snakepit.Error -> {:error, error} end
        IO.puts("result: \#{name} \#{with {:error, error} <- result, do: error.reason}")
        send(waiting, :ended)
        receive do :go_on -> :ok end
        # What comes late comes to nobody.
        {:messages, messages} = Process.info(self(), :messages)
        IO.puts("late: \#{name} \#{inspect(messages)}")
      end)
    end
    for _ <- calls, do: (receive do :ended -> :ok end)
    Port.close(port)
    # The thread goes on: this is answered behind all that was before it.
    {:ok, _} = Snakepit.execute("ping", %{}, pool: P, timeout: 60_000)
    for task <- tasks, do: send(task.pid, :go_on)
    Task.await_many(tasks, 60_000)
    System.halt(0)
    """

    ebin = Application.app_dir(:snakepit, "ebin")
    {output, 0} = System.cmd("elixir", ["-pa", ebin, "-e", script], stderr_to_stdout: true)
    lines = String.split(output, "\n")

    if "thread: stopped" in lines do
      for name <- ~w(unary session stream lazy stdio) do
        assert "result: #{name} timeout" in lines, output
        assert "late: #{name} []" in lines, output
      end
    else
      IO.puts("not tested, as no thread may be stopped here: #{output}")
    end
  end
end
