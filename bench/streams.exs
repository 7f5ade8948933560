# mix run bench/streams.exs [--chunks 5000000] [--cancels 1000]
#
# Measures streams: how far a generator runs ahead of its consumer, whether memory stays constant,
# whether any stream starves, and whether anything is left of a stream that ends early.
defmodule Snakepit.StreamBench do
  alias Snakepit.Native

  @mib 1024 * 1024

  def run(args) do
    {options, _, _} = OptionParser.parse(args, strict: [chunks: :integer, cancels: :integer])
    Logger.configure(level: :error)
    demand()
    slow_consumer()
    pause()
    many_streams()
    early_end()
    cancels(Keyword.get(options, :cancels, 1_000))
    stuck_handler()
    long_stream(Keyword.get(options, :chunks, 5_000_000))
  end

  defp demand do
    pool = pool(max_concurrency: 2)
    count = 50_000

    for demand <- [1, 16, 64, 256, 1024] do
      before = state(pool)
      {_, cpu} = beam_cpu()
      {time, ^count} = :timer.tc(fn -> count_chunks(pool, count, demand: demand) end)
      {_, cpu_after} = beam_cpu()
      python = (state(pool)["cpu"] - before["cpu"]) * 1.0e6 / count
      beam = (cpu_after - cpu) * 1.0e3 / count

      say("demand #{demand}", [
        "#{round(count * 1.0e6 / time)} chunks/s",
        "CPU per chunk: BEAM #{Float.round(beam, 1)} us, Python #{Float.round(python, 1)} us"
      ])
    end
  end

  defp slow_consumer do
    pool = pool(max_concurrency: 2)
    before = state(pool)["resident"]
    beam = resident()

    leads =
      "endless"
      |> Snakepit.stream(%{}, pool: pool)
      |> Stream.take(1_000)
      |> Enum.map(fn %{"index" => index} ->
        Process.sleep(10)
        if rem(index, 10) == 0, do: state(pool)["progress"] - index, else: 0
      end)

    say("a chunk every 10 ms, 10 s", [
      "the generator is at most #{Enum.max(leads)} small chunks ahead",
      "memory: BEAM #{grown(resident(), beam)}, Python #{grown(state(pool)["resident"], before)}"
    ])
  end

  defp pause do
    pool = pool(max_concurrency: 2)
    {:ok, call} = Snakepit.start_stream("counted", %{count: 10_000}, pool: pool, demand: 1)
    until = System.monotonic_time(:millisecond) + 5_000
    served = serve(pool, until, 0)
    Snakepit.ask(call, 10_000)
    10_000 = drain(call, 0)
    say("10,000 chunks of 1 byte, 5 s of pause", ["all came; #{served} other calls meanwhile"])
  end

  defp many_streams do
    pool = pool(max_concurrency: 100)
    count = 2_000

    times =
      1..200
      |> Enum.map(fn _ ->
        Task.async(fn ->
          {time, indexes} =
            :timer.tc(fn ->
              "counted_async"
              |> Snakepit.stream(%{count: count}, pool: pool, timeout: :infinity)
              |> Enum.map(& &1["index"])
            end)

          true = indexes == Enum.to_list(0..(count - 1))
          time
        end)
      end)
      |> Task.await_many(:infinity)

    rates = Enum.map(times, &(count * 1.0e6 / &1))
    mean = Enum.sum(rates) / length(rates)

    say("200 streams of #{count} at once", [
      "all complete and in order",
      "the slowest has #{Float.round(Enum.min(rates) / mean, 2)} of the mean rate"
    ])
  end

  defp early_end do
    pool = pool(max_concurrency: 2)

    times =
      for _ <- 1..50 do
        before = state(pool)["closed_at"]
        5 = "endless" |> Snakepit.stream(%{}, pool: pool) |> Enum.take(5) |> length()
        fifth = System.os_time(:microsecond)
        (closed_at(pool, before) * 1.0e6 - fifth) / 1000
      end

    say("Enum.take(5)", ["`finally` has run after at most #{Float.round(Enum.max(times), 1)} ms"])
  end

  defp cancels(count) do
    pool = pool(max_concurrency: 4)
    ways = [:halt, :cancel, :kill, :deadline]
    # Threads and tables grow to what this many concurrent calls need.
    for how <- ways, _ <- 1..div(count, 10), do: end_early(how, pool)
    pid = state(pool)["pid"]
    before = held(pool)

    for how <- ways do
      {time, _} = :timer.tc(fn -> for _ <- 1..count, do: end_early(how, pool) end)
      say("#{count} times #{how}", ["#{div(time, count)} us each"])
    end

    {:messages, []} = Process.info(self(), :messages)
    now = held(pool)
    ^pid = state(pool)["pid"]
    1_000 = count_chunks(pool, 1_000, [])
    for {what, number} <- before, do: say(what, ["#{number} before, #{now[what]} after"])
  end

  # Wait until the last call has released its place.
  defp held(pool) do
    eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end)
    state = state(pool)

    [
      "places on workers": elem(Snakepit.stats(pool), 1).in_flight,
      "Python threads": state["threads"],
      "Python files": state["files"],
      "BEAM files": files(),
      "BEAM processes": length(Process.list()),
      "native tasks": Native.runtime_tasks()
    ]
  end

  defp end_early(:halt, pool) do
    left = :rand.uniform(300)
    left = "endless" |> Snakepit.stream(%{}, pool: pool) |> Enum.take(left) |> length()
    left
  end

  defp end_early(:cancel, pool) do
    {:ok, call} = Snakepit.start_stream("endless", %{}, pool: pool, demand: :rand.uniform(300))
    wait(:rand.uniform(3_000))
    Snakepit.cancel(call)
  end

  defp end_early(:kill, pool) do
    owner = spawn(fn -> Snakepit.execute_stream("endless", %{}, fn _ -> nil end, pool: pool) end)

    wait(:rand.uniform(3_000))
    monitor = Process.monitor(owner)
    Process.exit(owner, :kill)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    end
  end

  defp end_early(:deadline, pool) do
    options = [pool: pool, timeout: :rand.uniform(5)]

    {:error, %{reason: :timeout}} =
      Snakepit.execute_stream("endless", %{}, fn _ -> nil end, options)
  end

  defp stuck_handler do
    pool = pool(kill_grace: 500, size: 2)
    {:ok, _} = Snakepit.execute("state", %{}, pool: pool)

    {time, {:error, %{reason: :timeout}}} =
      :timer.tc(fn -> Snakepit.execute("sleep", %{seconds: 600}, pool: pool, timeout: 100) end)

    timed_out = System.monotonic_time(:millisecond)
    others = for _ <- 1..100, do: elem(Snakepit.execute("state", %{}, pool: pool), 0)
    true = Enum.all?(others, &(&1 == :ok))
    eventually(fn -> match?({:ok, _}, two_at_once(pool)) end)
    replaced = System.monotonic_time(:millisecond) - timed_out

    say("time.sleep(600), a deadline of 100 ms", [
      "timed out after #{div(time, 1000)} ms; replaced and ready after #{replaced} ms (grace 500 ms)"
    ])
  end

  # Both workers are ready once two calls that need to overlap have run.
  defp two_at_once(pool) do
    tasks =
      for _ <- 1..2 do
        Task.async(fn -> Snakepit.execute("sleep", %{seconds: 0.05}, pool: pool) end)
      end

    {time, _} = :timer.tc(fn -> Task.await_many(tasks) end)
    if time < 95_000, do: {:ok, time}, else: :one_worker
  end

  defp long_stream(count) do
    pool = pool(max_concurrency: 2)
    mark = div(count, 5)

    marks =
      "counted"
      |> Snakepit.stream(%{count: count}, pool: pool, timeout: :infinity)
      |> Enum.reduce([], fn %{"index" => index}, marks ->
        if rem(index + 1, mark) == 0,
          do: [{resident(), state(pool)["resident"]} | marks],
          else: marks
      end)

    {beam_end, python_end} = hd(marks)
    {beam, python} = List.last(marks)

    say("#{count} chunks through one stream", [
      "from the first fifth to the end: BEAM #{grown(beam_end, beam)}, " <>
        "Python #{grown(python_end, python)}; then BEAM #{mib(beam_end)}, Python #{mib(python_end)}"
    ])
  end

  defp pool(options) do
    name = :"pool#{System.unique_integer([:positive])}"
    args = [class: "stream_commands:StreamCommands", paths: ["bench"]]
    defaults = [name: name, size: 1, adapter_args: args, queue_timeout: :infinity]
    {:ok, _} = Snakepit.Pool.start_link(Keyword.merge(defaults, options))
    :ok = Snakepit.Pool.await_ready(name)
    name
  end

  defp state(pool) do
    {:ok, state} = Snakepit.execute("state", %{}, pool: pool)
    state
  end

  defp count_chunks(pool, count, options) do
    "counted" |> Snakepit.stream(%{count: count}, [pool: pool] ++ options) |> Enum.count()
  end

  defp serve(pool, until, served) do
    {:ok, _} = Snakepit.execute("state", %{}, pool: pool)

    if System.monotonic_time(:millisecond) < until,
      do: serve(pool, until, served + 1),
      else: served
  end

  defp drain(%{ref: ref} = call, seen) do
    receive do
      {:snakepit, ^ref, {:chunks, chunks}} -> drain(call, seen + length(chunks))
      {:snakepit, ^ref, {:done, _info}} -> seen
    end
  end

  defp closed_at(pool, before) do
    case state(pool)["closed_at"] do
      ^before -> closed_at(pool, before)
      closed_at -> closed_at
    end
  end

  defp eventually(condition), do: condition.() || eventually(condition)

  # Milliseconds are too coarse for a random position in a stream.
  defp wait(micros) do
    until = System.monotonic_time(:microsecond) + micros
    eventually(fn -> System.monotonic_time(:microsecond) >= until end)
  end

  defp beam_cpu, do: :erlang.statistics(:runtime) |> then(fn {total, _} -> {:ok, total} end)
  defp files, do: "/proc/self/fd" |> File.ls!() |> length()

  defp resident do
    [_, resident | _] = "/proc/self/statm" |> File.read!() |> String.split()
    String.to_integer(resident) * 4096
  end

  defp grown(now, before), do: "grown by " <> mib(now - before)
  defp mib(bytes), do: "#{Float.round(bytes / @mib, 1)} MiB"
  defp say(what, said), do: IO.puts("#{what}: #{Enum.join(said, "; ")}")
end

Snakepit.StreamBench.run(System.argv())
