# mix run bench/nodes.exs [--calls 2000] [--chunks 200000]
#
# Measures calls between two Erlang nodes on this machine beside the same calls on one node, and how soon a generator is
# closed once its caller, the caller's node or the connection is gone. It starts the nodes by itself, and epmd if needed.
{:module, module, code, _} =
  defmodule Snakepit.NodesBench do
    # Runs on the nodes.
    @pool Snakepit.NodesBench.Pool

    def start_pool(root) do
      options = [
        name: @pool,
        root: root,
        size: 1,
        max_concurrency: 4,
        adapter_args: [class: "stream_commands:StreamCommands", paths: ["bench"]]
      ]

      owner =
        spawn(fn ->
          {:ok, _} = Snakepit.Pool.start_link(options)
          receive do: (:ready -> :ok)
          Process.sleep(:infinity)
        end)

      Process.sleep(500)
      :ok = Snakepit.Pool.await_ready(@pool, 60_000)
      send(owner, :ready)
      :ok
    end

    def pool(node), do: {@pool, node}

    # Microseconds, sorted.
    def unary(pool, calls, args) do
      times =
        for _ <- 1..calls do
          {time, {:ok, _}} = :timer.tc(fn -> Snakepit.execute("echo", args, pool: pool) end)
          time
        end

      Enum.sort(times)
    end

    # The same call without a relay: it is not cancelled when its caller ends.
    def erpc({pool, node}, calls, args) do
      arguments = ["echo", args, [pool: pool]]

      times =
        for _ <- 1..calls do
          {time, {:ok, _}} = :timer.tc(fn -> :erpc.call(node, Snakepit, :execute, arguments) end)

          time
        end

      Enum.sort(times)
    end

    def chunks(pool, count, size) do
      {time, ^count} =
        :timer.tc(fn ->
          "counted" |> Snakepit.stream(%{count: count, size: size}, pool: pool) |> Enum.count()
        end)

      count * 1.0e6 / time
    end

    # A process that consumes a stream without end; returns once it has a chunk.
    def consumer(pool) do
      me = self()

      pid =
        spawn(fn ->
          Snakepit.execute_stream("endless", %{}, fn _ -> send(me, :chunk) end,
            pool: pool,
            timeout: :infinity
          )
        end)

      receive do: (:chunk -> pid)
    end

    def paused(pool) do
      me = self()

      spawn(fn ->
        pause = fn chunk ->
          if chunk["index"] == 0, do: send(me, :chunk)
          Process.sleep(:infinity)
        end

        Snakepit.execute_stream("endless", %{}, pause, pool: pool, timeout: :infinity)
      end)

      receive do: (:chunk -> :ok)
    end

    def kill(pid) do
      at = System.os_time(:microsecond)
      Process.exit(pid, :kill)
      at
    end

    def cut(node) do
      at = System.os_time(:microsecond)
      true = :erlang.disconnect_node(node)
      at
    end

    def state, do: elem(Snakepit.execute("state", %{}, pool: @pool), 1)

    # How long after `at` a generator was closed, in ms.
    def closed(at) do
      case state()["closed_at"] * 1_000_000 do
        closed when closed >= at ->
          (closed - at) / 1_000

        _earlier ->
          Process.sleep(5)
          closed(at)
      end
    end
  end

defmodule Snakepit.NodesBench.Run do
  @bench Snakepit.NodesBench

  def run(args, code) do
    {options, _, _} = OptionParser.parse(args, strict: [calls: :integer, chunks: :integer])
    calls = Keyword.get(options, :calls, 2_000)
    chunks = Keyword.get(options, :chunks, 200_000)
    Logger.configure(level: :error)
    [owner, caller] = for _ <- 1..2, do: start!(code)
    :ok = call(owner, :start_pool, [File.cwd!()])
    far = @bench.pool(owner.node)
    costs(owner, caller, far, calls, chunks)
    cancellations(owner, caller, far, code)
  end

  defp costs(owner, caller, far, calls, chunks) do
    for args <- [%{n: 1}, %{data: Snakepit.bytes(String.duplicate("x", 65_536))}], _ <- 1..2 do
      bytes = if args[:data], do: "64 KiB", else: "a number"

      for {what, peer} <- [{"on one node", owner}, {"between nodes", caller}] do
        times = call(peer, :unary, [far, calls, args])
        say("echo of #{bytes}, #{what}", "p50 #{at(times, 0.5)} us, p99 #{at(times, 0.99)} us")
      end

      times = call(caller, :erpc, [far, calls, args])
      say("echo of #{bytes}, by :erpc", "p50 #{at(times, 0.5)} us, p99 #{at(times, 0.99)} us")
    end

    for size <- [1, 1_000], _ <- 1..2 do
      for {what, peer} <- [{"on one node", owner}, {"between nodes", caller}] do
        say(
          "chunks of #{size} bytes, #{what}",
          "#{round(call(peer, :chunks, [far, chunks, size]))} chunks/s"
        )
      end
    end
  end

  defp cancellations(owner, caller, far, code) do
    kill = fn -> call(caller, :kill, [call(caller, :consumer, [far])]) end
    cut = fn -> call(caller, :consumer, [far]) && call(caller, :cut, [owner.node]) end

    halt = fn ->
      victim = start!(code)
      call(victim, :consumer, [far])
      at = System.os_time(:microsecond)
      {_, 0} = System.cmd("kill", ["-KILL", :peer.call(victim.control, System, :pid, [])])
      at
    end

    for {what, fall, times} <- [
          {"the caller is killed", kill, 10},
          {"the connection is cut", cut, 10},
          {"the node is killed", halt, 3}
        ] do
      took = for _ <- 1..times, do: call(owner, :closed, [fall.()])
      all = took |> Enum.sort() |> Enum.map_join(", ", &Float.round(&1, 1))
      say("#{what}: the generator is closed after", "#{all} ms")
    end

    for {what, peer} <- [{"on one node", owner}, {"between nodes", caller}] do
      call(peer, :paused, [far])
      Process.sleep(1_000)

      say(
        "a consumer pauses #{what}",
        "the generator is #{call(owner, :state, [])["progress"]} chunks ahead"
      )
    end
  end

  defp start!(code) do
    {:ok, control, node} =
      :peer.start_link(%{
        name: :"bench#{System.pid()}_#{System.unique_integer([:positive])}",
        host: ~c"127.0.0.1",
        longnames: true,
        connection: :standard_io,
        wait_boot: 60_000,
        args:
          [
            ~c"-setcookie",
            ~c"snakepit_bench",
            ~c"-kernel",
            ~c"prevent_overlapping_partitions",
            ~c"false"
          ] ++
            Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
      })

    peer = %{control: control, node: node}
    {:ok, _} = :peer.call(control, :application, :ensure_all_started, [:snakepit], 60_000)
    :ok = :peer.call(control, Logger, :configure, [[level: :error]])
    {:module, _} = :peer.call(control, :code, :load_binary, [@bench, ~c"nodes.exs", code])
    peer
  end

  defp call(peer, function, args), do: :peer.call(peer.control, @bench, function, args, 600_000)

  defp at(times, part), do: Enum.at(times, floor(length(times) * part))

  defp say(what, figure), do: IO.puts(String.pad_trailing(what, 52) <> figure)
end

Process.flag(:trap_exit, true)
^module = Snakepit.NodesBench
Snakepit.NodesBench.Run.run(System.argv(), code)
