defmodule Snakepit.Faults.TwoWay do
  @moduledoc false
  # Whoever is killed while commands ask tools and read input streams: nothing of a call is left at either end.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Load, OS}
  alias Snakepit.TwoWay.Asks

  def trials do
    [
      %{
        name: "two-way",
        about:
          "callers, tools and the processes that start these are killed, and deadlines pass, during asks and inputs",
        short: true,
        run: &two_way/1
      }
    ]
  end

  # How calls end that were hit: a tool was killed, or the process that starts them.
  @hit [{:tool_error, "exit"}, {:tool_error, "uncaught"}, :cancelled]
  # How many threads and descriptors more than before the worker may have: each call could leave one.
  @slack 8

  defp two_way(what) do
    for {kind, options} <- kinds() do
      {pool, supervisor} =
        start_pool!([size: 1, max_concurrency: 4, kill_grace: 60_000] ++ options)

      calls = Load.two_way(kind)
      # The worker has started its threads by then.
      warm = Load.start(pool, kinds: calls, callers: 8, what: what)
      Load.goes_on(warm, 30)
      Load.stop(warm, "#{kind}, before", [])
      before = {left(), left(pool)}
      load = Load.start(pool, kinds: calls, callers: 8, what: what)

      rough =
        Task.async(fn ->
          seed(what.seed, 1_000)
          rough(pool, calls, %{})
        end)

      for _ <- 1..times(what, 20, 300) do
        hit(Enum.random([:tool, :asks]), load)
        Load.goes_on(load, 2)
      end

      send(rough.pid, :stop)
      [ended] = await_all([rough], "#{kind}: callers that are killed")
      Load.stop(load, kind, @hit)
      figure("#{kind}:", "#{ended[:killed]} callers killed, #{ended[:late]} deadlines passed")
      must(ended[:killed] > 0 and ended[:late] > 0, "#{kind}: nothing was ended")
      nothing_left(kind, pool, before)
      stop_pools([{pool, supervisor}])
    end
  end

  defp nothing_left(kind, pool, {here, there}) do
    for {name, count} <- here do
      wait("#{kind}: no more #{name} than the #{count} before", fn -> left()[name] <= count end)
    end

    wait("#{kind}: no call, thread, task or descriptor is left in the worker", fn ->
      match?({:ok, %{in_flight: 0, queued: 0}}, Snakepit.stats(pool)) and
        no_more?(left(pool), there)
    end)

    must(left(pool)["pid"] == there["pid"], "#{kind}: the worker was replaced")
  end

  # In the BEAM.
  defp left do
    %{
      processes: length(Process.list()),
      ports: length(Port.list()),
      descriptors: OS.descriptors(OS.own_pid()),
      "tasks of the runtime": Snakepit.Native.runtime_tasks(),
      "processes that start tools": length(asks())
    }
  end

  # In the worker, as it says itself.
  defp left(pool) do
    options = [pool: pool, timeout: 60_000, queue_timeout: 60_000]
    {:ok, left} = Snakepit.execute("left", %{}, options)
    left
  end

  defp no_more?(now, before) do
    now["tasks"] <= before["tasks"] and now["threads"] <= before["threads"] + @slack and
      now["descriptors"] <= before["descriptors"] + @slack
  end

  defp asks do
    for {_, pid, _, _} <- DynamicSupervisor.which_children(Asks.Supervisor), is_pid(pid), do: pid
  end

  defp hit(who, load) do
    wait("a tool runs", fn -> running(who, load) != [] end)
    # It may have ended meanwhile.
    with [_ | _] = pids <- running(who, load), do: Process.exit(Enum.random(pids), :kill)
  end

  defp running(:tool, load), do: Load.running_tools(load)
  defp running(:asks, _load), do: asks()

  # Calls that would never end. Counts how they did.
  defp rough(pool, kinds, ended) do
    receive do
      :stop -> ended
    after
      0 ->
        how = endless(Enum.random(kinds), Enum.random([:killed, :late]), pool)
        rough(pool, kinds, Map.update(ended, how, 1, &(&1 + 1)))
    end
  end

  defp endless(kind, how, pool) do
    me = self()
    timeout = if how == :killed, do: :infinity, else: Enum.random([20, 100])
    options = [pool: pool, timeout: timeout, queue_timeout: :infinity]
    begun = fn -> send(me, {:begun, kind}) end
    {pid, monitor} = spawn_monitor(fn -> exit({:ended, outcome(call(kind, begun, options))}) end)

    if how == :killed do
      receive do
        {:begun, ^kind} -> Process.exit(pid, :kill)
        {:DOWN, ^monitor, _, _, _} = down -> send(me, down)
      end
    end

    receive do
      {:DOWN, ^monitor, _, _, :killed} -> flush(:killed)
      {:DOWN, ^monitor, _, _, {:ended, :timeout}} -> flush(:late)
      # The process that starts its tools was killed.
      {:DOWN, ^monitor, _, _, {:ended, :cancelled}} -> flush(:cancelled)
      {:DOWN, ^monitor, _, _, reason} -> fail("a call without an end ended: #{inspect(reason)}")
    end
  end

  # Nobody says any more that it has begun.
  defp flush(how) do
    receive do
      {:begun, _kind} -> flush(how)
    after
      0 -> how
    end
  end

  defp call(:asks, begun, options) do
    command = Enum.random(["mark_asks", "mark_asks_async"])
    Snakepit.execute(command, asking(4), [tools: [stuck: stuck(begun)]] ++ options)
  end

  defp call(:asking_stream, begun, options) do
    options = [tools: [stuck: stuck(begun)]] ++ options
    Snakepit.execute_stream("mark_asking_stream", asking(2), & &1, options)
  end

  defp call(:input, begun, options),
    do: Snakepit.execute("mark_input", %{path: "/dev/null", token: 0, rows: rows(begun)}, options)

  defp call(:both_ways, begun, options) do
    args = %{path: "/dev/null", token: 0, rows: rows(begun)}
    Snakepit.execute_stream("mark_both_ways", args, fn _ -> :ok end, options)
  end

  defp call(:pushed, begun, options) do
    args = %{path: "/dev/null", token: 0, rows: Snakepit.input(:push)}

    with {:ok, call} <- Snakepit.start_stream("mark_both_ways", args, options) do
      begun.()
      # Until it is full, as nobody takes its chunks. The call ends it.
      Enum.all?(Stream.cycle([1]), &(Snakepit.push(call, &1) == :ok))
      last(call)
    end
  end

  defp last(%{ref: ref} = call) do
    receive do
      {:snakepit, ^ref, {:chunks, _chunks}} -> last(call)
      {:snakepit, ^ref, event} -> event
    end
  end

  defp asking(count), do: %{path: "/dev/null", token: 0, tool: "stuck", count: count}

  defp stuck(begun) do
    fn _args ->
      begun.()
      Process.sleep(:infinity)
    end
  end

  defp rows(begun) do
    Snakepit.input(Stream.resource(begun, fn begun -> {[1], begun} end, fn _begun -> :ok end))
  end
end
