# mix run bench/two_way.exs [--rounds 10] [--asks 1000] [--items 100000]
#
# Measures two-way calls: an ask beside a call without one, the asks of 32 calls at once, items that go in beside chunks
# that come out, and how soon both ends of a stream are closed of which 5 chunks are taken. What is compared takes turns.
defmodule Snakepit.TwoWayBench do
  @calls 32

  def run(args) do
    {options, _, _} =
      OptionParser.parse(args, strict: [rounds: :integer, asks: :integer, items: :integer])

    Logger.configure(level: :error)
    rounds = Keyword.get(options, :rounds, 10)
    asks = Keyword.get(options, :asks, 1_000)
    round_trips(rounds, asks)
    for command <- ["asks", "asks_async"], do: at_once(command, rounds, div(asks, 4))
    items(rounds, Keyword.get(options, :items, 100_000))
    early_end()
  end

  defp round_trips(rounds, count) do
    for concurrency <- [1, 4] do
      pool = pool(max_concurrency: concurrency)

      times =
        for _ <- 1..rounds do
          calls = for n <- 1..count, do: {micros(fn -> call(pool, "same", %{value: n}) end)}
          result = call(pool, "round_trip", %{count: count}, tools: tools())
          {median(calls, 0), result["result"]}
        end

      call = median(times, 0)
      ask = median(times, 1)

      say("a worker with max_concurrency: #{concurrency}", [
        "p50 of a call #{us(call)}",
        "of an ask #{us(ask)}",
        "ratio #{Float.round(ask / call, 2)}"
      ])

      stop(pool)
    end
  end

  defp at_once(command, rounds, count) do
    pool = pool(size: 2, max_concurrency: div(@calls, 2))
    states = states(pool)
    {_, beam} = beam_cpu()

    rates =
      for _ <- 1..rounds do
        {time, _} =
          :timer.tc(fn ->
            1..@calls
            |> Enum.map(fn _ ->
              Task.async(fn -> call(pool, command, %{count: count}, tools: tools()) end)
            end)
            |> Task.await_many(:infinity)
          end)

        {@calls * count * 1.0e6 / time}
      end

    {_, beam_after} = beam_cpu()
    number = rounds * @calls * count
    after_all = states(pool)
    used = fn what -> sum(after_all, what) - sum(states, what) end

    say("#{@calls} calls at once, `#{command}`", [
      "#{round(median(rates, 0))} asks/s",
      "CPU per ask: BEAM #{us((beam_after - beam) * 1.0e3 / number)}, Python #{us(used.("cpu") * 1.0e6 / number)}",
      "#{Float.round(used.("waits") / number, 2)} waits of Python's threads per ask"
    ])

    stop(pool)
  end

  defp items(rounds, count) do
    pool = pool([])
    rows = Stream.map(1..count, &%{index: &1})

    into = fn ahead ->
      micros(fn -> call(pool, "count", %{rows: Snakepit.input(rows, max_items: ahead)}) end)
    end

    out = fn ->
      micros(fn ->
        :ok = Snakepit.execute_stream("counted", %{count: count}, &is_map/1, pool: pool)
      end)
    end

    # As many ahead as items are by default, and as chunks are.
    times = for _ <- 1..rounds, do: {into.(64), into.(256), out.()}
    [few, many, chunks] = for which <- 0..2, do: count * 1.0e6 / median(times, which)

    say("#{count} items in, and chunks out", [
      "#{round(few)} items/s, at most 64 ahead",
      "#{round(many)} items/s, at most 256 ahead",
      "#{round(chunks)} chunks/s",
      "ratios #{Float.round(chunks / few, 2)} and #{Float.round(chunks / many, 2)}"
    ])

    stop(pool)
  end

  defp early_end do
    pool = pool([])

    times =
      for _ <- 1..50 do
        bench = self()

        rows =
          Stream.resource(
            fn -> 0 end,
            &{[&1], &1 + 1},
            fn _ -> send(bench, {:closed, System.os_time(:microsecond)}) end
          )

        [%{"closed_at" => before}] = states(pool)

        5 =
          "echo"
          |> Snakepit.stream(%{rows: Snakepit.input(rows)}, pool: pool)
          |> Stream.each(&send(bench, {:chunk, &1, System.os_time(:microsecond)}))
          |> Enum.take(5)
          |> length()

        closed = receive do: ({:closed, at} -> at)
        (max(closed, closed_at(pool, before) * 1.0e6) - fifth(nil)) / 1000
      end

    say("Enum.take(5) of a stream in both directions", [
      "both ends are closed after at most #{Float.round(Enum.max(times), 1)} ms"
    ])

    stop(pool)
  end

  # When the last chunk was taken.
  defp fifth(last) do
    receive do
      {:chunk, _chunk, at} -> fifth(at)
    after
      0 -> last
    end
  end

  defp closed_at(pool, before) do
    case states(pool) do
      [%{"closed_at" => ^before}] -> closed_at(pool, before)
      [%{"closed_at" => closed_at}] -> closed_at
    end
  end

  # Of each worker.
  defp states(pool) do
    {:ok, workers} = Snakepit.list_workers(pool)
    states(pool, length(workers), %{})
  end

  defp states(_pool, count, states) when map_size(states) == count, do: Map.values(states)

  defp states(pool, count, states) do
    # Together, so that they go to all workers.
    1..(2 * count)
    |> Enum.map(fn _ -> Task.async(fn -> call(pool, "state", %{}) end) end)
    |> Task.await_many(:infinity)
    |> Enum.reduce(states, &Map.put(&2, &1["pid"], &1))
    |> then(&states(pool, count, &1))
  end

  defp sum(states, what), do: states |> Enum.map(& &1[what]) |> Enum.sum()

  defp tools, do: [same: fn %{"value" => value} -> value end]

  defp call(pool, command, args, options \\ []) do
    {:ok, result} = Snakepit.execute(command, args, [pool: pool, timeout: :infinity] ++ options)
    result
  end

  defp pool(options) do
    name = :"pool#{System.unique_integer([:positive])}"
    args = [class: "two_way_commands:TwoWayCommands", paths: [__DIR__]]
    defaults = [name: name, size: 1, adapter_args: args]
    {:ok, _} = Snakepit.Pool.start_link(Keyword.merge(defaults, options))
    :ok = Snakepit.Pool.await_ready(name)
    name
  end

  defp stop(pool), do: Supervisor.stop(pool)

  defp beam_cpu, do: :erlang.statistics(:runtime) |> then(fn {total, _} -> {:ok, total} end)

  defp median(times, which) do
    sorted = times |> Enum.map(&elem(&1, which)) |> Enum.sort()
    Enum.at(sorted, div(length(sorted), 2))
  end

  defp micros(function), do: function |> :timer.tc() |> elem(0)
  defp us(micros), do: "#{Float.round(micros / 1, 1)} us"
  defp say(what, said), do: IO.puts("#{what}: #{Enum.join(said, "; ")}")
end

Snakepit.TwoWayBench.run(System.argv())
