defmodule Mix.Tasks.Snakepit.TopTest do
  # The view of another node, as plain text and in a real terminal, and what it leaves behind.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, only: [eventually: 1, patience: 0]

  alias Mix.Snakepit.Top.View
  alias Snakepit.Test.{Load, Peers, Project}
  alias Snakepit.Top.Collector

  @moduletag :tmp_dir
  @cookie "snakepit_top_test"

  # A node with a pool.
  defp node! do
    settings = [
      pool_config: %{pool_size: 1, timeout: patience()},
      grpc_config: %{server_startup_timeout: 2 * patience()}
    ]

    peer = Peers.start!(cookie: @cookie, settings: settings)
    call = &Peers.call(peer, &1, &2, &3)
    :ok = call.(Snakepit.Pool, :await_ready, [Snakepit.Pool, 2 * patience()])
    {peer.node, call}
  end

  # Calls until the test ends.
  defp load!(call) do
    {:ok, pid} = call.(Task, :start, [Load, :call, []])
    pid
  end

  defp handlers(call), do: call.(:ets, :tab2list, [:telemetry])

  defp args(node, more),
    do: ["snakepit.top", "--node", to_string(node), "--cookie", @cookie | more]

  test "prints a node's pools, rates and errors once, and leaves nothing there", %{tmp_dir: dir} do
    {node, call} = node!()
    load!(call)
    project = Project.write!(Path.join(dir, "app"), :app)
    {output, status} = Project.mix(project, args(node, ["--once"]))
    assert status == 0, output
    assert output =~ "snakepit top  #{node}"

    assert output =~
             ~r/^  1 of 1 ready   \d+\.\d calls\/s   \d+\.\d errors\/s$/m

    times = "p50 [\\d.]+ \\w?s  p90 [\\d.]+ \\w?s  p99 [\\d.]+ \\w?s"
    assert output =~ ~r/^  execution #{times}   queue #{times}$/m

    assert output =~ ~r/^  Snakepit\.Pool\/1 +ready +\d+ +[01] +\d+ +\d+ +[\d.]+ MiB/m

    assert output =~
             ~r/^  \d\d:\d\d:\d\d  Snakepit\.Pool  compute: python_error: .*ZeroDivisionError/m

    refute output =~ "\e["
    eventually(fn -> handlers(call) == [] end)

    {output, 1} = Project.mix(project, ["snakepit.top", "--node", "nobody@127.0.0.1", "--once"])
    assert output =~ "cannot connect to nobody@127.0.0.1: check that it runs with this name"
  end

  test "draws in a terminal, and restores it, also if it is killed", %{tmp_dir: dir} do
    {node, call} = node!()
    # The view's own process, not one that has started it.
    config = ~s[File.write!("pid", System.pid())]
    project = Project.write!(Path.join(dir, "app"), :app, %{"config/config.exs" => config})
    # The compiler's output would be in the terminal as well.
    Project.mix(project, ["compile"])
    read = &(project |> Path.join(&1) |> File.read!() |> String.trim())
    kill = fn _port -> {_, 0} = System.cmd("kill", ["-KILL", read.("pid")]) end

    for {end_it, status} <- [
          {&Port.command(&1, "q"), 0},
          {&Port.command(&1, <<3>>), 0},
          {kill, 137}
        ] do
      port = in_terminal(project, args(node, []))
      screen = until(port, "", ~r/\e\[H.*Snakepit\.Pool\/1.*q quits/s)
      assert screen =~ "\e[?1049h"
      # A key that means nothing is not echoed.
      Port.command(port, "x")
      end_it.(port)
      assert finish(port, "") =~ "\e[?25h\e[?1049l"
      assert read.("status") == "status #{status}"
      assert read.("before") != ""
      assert read.("after") == read.("before")
      for file <- ~w(before after status pid), do: File.rm!(Path.join(project, file))
    end

    eventually(fn -> handlers(call) == [] end)
  end

  # Runs `mix` in a terminal of its own, as a job of a shell that has job control, like the one of a
  # user. Afterwards the shell waits until the terminal is as it was before.
  defp in_terminal(project, args) do
    line = Enum.map_join(["mix" | args], " ", &"'#{&1}'")

    command = """
    set -m
    stty -g > before
    #{line}
    echo status $? > status
    tries=#{10 * div(patience(), 1_000)}
    until stty -g > after; cmp -s before after || [ $((tries -= 1)) -eq 0 ]; do sleep 0.1; done
    """

    env = for {name, value} <- Project.env(project), do: {to_charlist(name), to_charlist(value)}

    Port.open({:spawn_executable, System.find_executable("script")}, [
      :binary,
      :exit_status,
      cd: project,
      env: [{~c"SHELL", ~c"/bin/sh"} | env],
      args: ["-q", "-e", "-c", command, "/dev/null"]
    ])
  end

  defp until(port, seen, wanted) do
    if seen =~ wanted do
      seen
    else
      receive do
        {^port, {:data, data}} -> until(port, seen <> data, wanted)
        {^port, {:exit_status, status}} -> flunk("it ended with #{status}: #{seen}")
      after
        2 * patience() -> flunk("nothing of #{inspect(wanted)} in: #{seen}")
      end
    end
  end

  defp finish(port, seen) do
    receive do
      {^port, {:data, data}} -> finish(port, seen <> data)
      {^port, {:exit_status, 0}} -> seen
    after
      2 * patience() -> flunk("it did not end: #{seen}")
    end
  end

  describe "the collector" do
    test "ends with its viewer, even if that is killed" do
      viewer = spawn(fn -> Process.sleep(:infinity) end)
      {:ok, collector} = Collector.start(viewer)

      mine = fn ->
        Enum.filter(:ets.tab2list(:telemetry), &match?({_, {Collector, ^collector, _}, _, _}, &1))
      end

      assert length(mine.()) == 5
      monitor = Process.monitor(collector)
      Process.exit(viewer, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^collector, :normal}
      assert mine.() == []
    end

    test "keeps a bounded number of errors" do
      {:ok, collector} = Collector.start(self())
      pool = :a_pool_of_the_collector
      ms = System.convert_time_unit(1, :millisecond, :native)
      error = %Snakepit.Error{reason: :timeout, message: String.duplicate("long\n", 1_000)}

      for n <- 1..2_000 do
        metadata = %{pool: pool, command: "c#{n}", kind: :error, reason: error}
        :telemetry.execute([:snakepit, :call, :exception], %{duration: ms}, metadata)
      end

      errors = Collector.read(collector)

      assert Enum.map(errors, &(&1.text |> String.split(":") |> hd())) ==
               for(n <- 2_000..1_993//-1, do: "c#{n}")

      assert Enum.all?(
               errors,
               &(String.length(&1.text) <= 300 and not String.contains?(&1.text, "\n"))
             )
    end
  end

  test "shows the times of the last minute, and the progress of running calls" do
    times = %{p50: 800, p90: 2_500, p99: 3_000_000}
    none = %{p50: nil, p90: nil, p99: nil}

    stats = %{
      size: 1,
      ready: 1,
      calls: 7,
      errors_by_reason: %{timeout: 2, python_error: 1},
      last_minute: %{calls: 7, execution_us: times, queue_us: none},
      in_flight: 1,
      queued: 0,
      sessions: 0,
      restarts: 0,
      recycled: 0,
      memory_bytes: 0
    }

    progress = [%{command: "train", request_id: "r", fraction: 0.4, message: "epoch 2"}]

    worker = %{
      id: "p/1",
      state: :ready,
      os_pid: 1,
      in_flight: 1,
      requests: 7,
      errors: 3,
      error: nil
    }

    worker =
      Map.merge(worker, %{memory_bytes: 0, cpu_percent: 1.0, uptime_ms: 5, progress: progress})

    pool = %{name: :p, stats: stats, workers: [worker], error: nil}
    sample = %{node: node(), at: 10_000, time: 0, telemetry: true, errors: [], pools: [pool]}

    before = %{
      sample
      | at: 0,
        pools: [%{pool | stats: %{stats | calls: 2, errors_by_reason: %{}}}]
    }

    shown = [sample, before] |> View.lines() |> View.plain() |> IO.iodata_to_binary()
    assert shown =~ "  1 of 1 ready   0.5 calls/s   0.3 errors/s\n"
    assert shown =~ "  execution p50 800 us  p90 2.5 ms  p99 3.0 s   queue p50 -  p90 -  p99 -\n"
    assert shown =~ "\n    train   40 %  epoch 2\n"
  end

  test "fits the screen" do
    lines = for n <- 1..50, do: {:bad, "line #{n} " <> String.duplicate("x", 100) <> "\e[31m"}
    screen = lines |> View.screen({10, 20}) |> IO.iodata_to_binary()
    shown = String.split(screen, "\r\n")
    assert length(shown) == 10
    assert screen =~ "... 42 more lines"
    visible = String.replace(screen, ~r/\e\[\d*[A-Za-z]/, "")
    assert visible |> String.split("\r\n") |> Enum.all?(&(String.length(&1) <= 20))
  end
end
