defmodule Snakepit.Bench.Cost.Parts do
  @moduledoc false
  # What bench/cost.exs measures. Each part returns rows of the table: figures of Snakepit and of
  # its yardsticks, which take turns in every round, with the target for their ratio.

  alias Snakepit.Bench.Cost.{Beam, Counters, Peers}

  @parts [
    lone: "one call at a time, on one CPU: latency, CPU time, context switches, system calls",
    one_cpu: "32 callers, on one CPU",
    beside: "one call at a time, beside a busy process",
    callers: "32 callers on one worker, then 128 and 1,000",
    workers: "32 callers over 1, 10 and 50 workers",
    idle: "wake-ups of a pool of 50 idle workers",
    sizes: "echoes of 64 KiB to 4 MiB",
    large: "echoes of 10 MB and 100 MB, each first in a fresh BEAM"
  ]
  @all ~w(snakepit raw json erlport)a
  # For values that JSON cannot carry as they are.
  @binary ~w(snakepit raw erlport)a
  @text String.duplicate("The quick brown fox jumps over the lazy dog, ", 23)
        |> binary_part(0, 1024)

  def parts, do: @parts

  @doc "Runs a part in a BEAM of its own, and returns its rows."
  def run(part, options) when part in [:lone, :one_cpu],
    do: Beam.run(__MODULE__, part, [options], cpu: options.cpu)

  # These need more than one BEAM.
  def run(part, options) when part in [:beside, :large], do: apply(__MODULE__, part, [options])
  def run(part, options), do: Beam.run(__MODULE__, part, [options])

  # -- One caller --

  def lone(options) do
    with_peers(@all, options, fn peers ->
      count = count(options, 10_000)
      rounds = rounds(peers, options, &cost_of_lone_calls(&1, count))
      row = &row("one call at a time, one CPU", &1, &2, series(rounds, &3), &4)
      per_call = &counted(&1, peers, count(options, 2_000))

      [
        row.("p50", "us", & &1.p50, {:at_most, 1.2, :json}),
        row.("p99", "us", & &1.p99, nil),
        row.("CPU, both ends", "us", &(&1.beam_cpu + &1.python_cpu), {:at_most, 1.15, :json}),
        row.("CPU, BEAM", "us", & &1.beam_cpu, nil),
        row.("CPU, Python", "us", & &1.python_cpu, nil),
        row.("voluntary switches, BEAM", "", & &1.beam_voluntary, nil),
        row.("voluntary switches, Python", "", & &1.python_voluntary, nil),
        row.("involuntary switches, both ends", "", & &1.involuntary, nil)
      ] ++
        for {counter, name} <- [system_calls: "system calls", instructions: "instructions"],
            counts = per_call.(counter),
            {place, index} <- [{"BEAM", 0}, {"Python", 1}] do
          series = for {peer, ends} <- counts, do: {peer, [ends && Enum.at(ends, index)]}
          row("one call at a time, one CPU", "#{name}, #{place}", "", series, nil)
        end
    end)
  end

  defp cost_of_lone_calls(peer, count) do
    {times, [beam, python]} =
      Counters.used([[System.pid()], peer.os_pids], fn -> times(peer, @text, count) end)

    [beam_cpu, beam_voluntary, beam_involuntary] = beam
    [python_cpu, python_voluntary, python_involuntary] = python

    %{
      p50: percentile(times, 50),
      p99: percentile(times, 99),
      beam_cpu: beam_cpu / 1000 / count,
      python_cpu: python_cpu / 1000 / count,
      beam_voluntary: beam_voluntary / count,
      python_voluntary: python_voluntary / count,
      involuntary: (beam_involuntary + python_involuntary) / count
    }
  end

  # Not in the rounds, because counting slows the calls down.
  defp counted(counter, peers, count) do
    for peer <- peers do
      ends = [System.pid() | peer.os_pids]
      calls = fn -> for _ <- 1..count, do: peer.echo.(@text) end
      counts = Counters.count(counter, ends, calls)
      {peer.name, counts && Enum.map(counts, &(&1 && &1 / count))}
    end
  end

  def beside(options) do
    anywhere = Beam.run(__MODULE__, :beside, ["beside a busy process", options])
    name = "on one CPU, with a busy process"
    same = Beam.run(__MODULE__, :beside, [name, options], cpu: options.cpu)
    # Where the two compete for a CPU the kernel's scheduler decides, for all peers alike.
    anywhere ++ for row <- same, do: %{row | target: nil}
  end

  def beside(group, options) do
    with_peers(@binary, options, fn peers ->
      stop = start_busy_process(options)
      count = count(options, 5_000)

      rounds =
        rounds(peers, options, fn peer ->
          times = times(peer, @text, count)
          %{p50: percentile(times, 50), p99: percentile(times, 99)}
        end)

      stop.()

      [
        row(group, "p50", "us", series(rounds, & &1.p50), {:at_most, 1, :erlport}),
        row(group, "p99", "us", series(rounds, & &1.p99), {:at_most, 1, :erlport})
      ]
    end)
  end

  # Ends with this BEAM, should it not be stopped.
  @busy "import os\nparent = os.getppid()\n" <>
          "while os.getppid() == parent:\n    for _ in range(100_000): pass"

  defp start_busy_process(options) do
    program = {:spawn_executable, Peers.python(options)}
    port = Port.open(program, [:exit_status, args: ["-c", @busy]])
    {:os_pid, os_pid} = Port.info(port, :os_pid)

    fn ->
      System.cmd("kill", ["#{os_pid}"])

      receive do
        {^port, {:exit_status, _}} -> :ok
      end
    end
  end

  # -- Many callers --

  def one_cpu(options) do
    with_peers(@all, options, fn peers ->
      rounds = rounds(peers, options, &rate(&1, count(options, 40_000), 32))
      rate_rows("32 callers, one CPU", rounds, nil)
    end)
  end

  def callers(options) do
    one_worker =
      with_peers(@all, options, fn peers ->
        rounds = rounds(peers, options, &rate(&1, count(options, 80_000), 32))
        rate_rows("32 callers on one worker", rounds, {:at_least, 1.3, :json, :each_round})
      end)

    one_worker ++ with_peers([:snakepit], options, &more_callers(&1, options))
  end

  defp more_callers([peer], options) do
    rates =
      for _ <- 1..options.rounds do
        for callers <- [128, 1000], do: rate(peer, count(options, 80_000), callers).rate
      end

    [few, many] = Enum.zip_with(rates, & &1)
    ratios = Enum.zip_with(many, few, &(&1 / &2))

    [
      row("on one worker", "128 callers", "calls/s", [snakepit: few], nil),
      row("on one worker", "1,000 callers", "calls/s", [snakepit: many], nil),
      row("on one worker", "1,000 to 128 callers", "ratio", [snakepit: ratios], {:at_least, 0.95})
    ]
  end

  def workers(options) do
    for size <- options.workers,
        row <- with_peers(@binary, options, [size: size], &spread(&1, size, options)),
        do: row
  end

  defp spread(peers, size, options) do
    rounds = rounds(peers, options, &rate(&1, count(options, 40_000), 32))
    target = if size > 1, do: {:at_least, 1.2, :erlport}
    rate_rows("32 callers over #{workers_text(size)}", rounds, target)
  end

  defp workers_text(1), do: "1 worker"
  defp workers_text(size), do: "#{size} workers"

  defp rate_rows(group, rounds, target) do
    [
      row(group, "calls", "calls/s", series(rounds, & &1.rate), target),
      row(group, "CPU, both ends, a call", "us", series(rounds, & &1.cpu), nil),
      row(group, "voluntary switches, a call", "", series(rounds, & &1.switches), nil)
    ]
  end

  defp rate(peer, count, callers) do
    each = max(div(count, callers), 1)
    calls = fn -> for _ <- 1..each, do: peer.echo.(@text) end
    in_callers(callers, fn -> for _ <- 1..max(div(each, 10), 1), do: peer.echo.(@text) end)

    {time, [beam, python]} =
      Counters.used([[System.pid()], peer.os_pids], fn -> in_callers(callers, calls) end)

    count = each * callers
    [cpu, switches, _involuntary] = Enum.zip_with(beam, python, &(&1 + &2))
    %{rate: count / time * 1.0e9, cpu: cpu / 1000 / count, switches: switches / count}
  end

  # The time until all callers have finished, in ns.
  defp in_callers(callers, fun) do
    wait = fn ->
      receive do
        :go -> fun.()
      end
    end

    tasks = for _ <- 1..callers, do: Task.async(wait)
    started = now()
    for task <- tasks, do: send(task.pid, :go)
    Task.await_many(tasks, :infinity)
    now() - started
  end

  # -- No caller --

  def idle(options) do
    size = Enum.max(options.workers)

    with_peers([:snakepit], options, [size: size], fn [peer] ->
      seconds = max(round(10 * options.scale), 1)
      # What the start has left to do.
      Process.sleep(2_000)
      ends = [beam: {[System.pid()], ~r/snakepit|tokio/}, python: {peer.os_pids, ~r//}]
      before = for {_, {os_pids, name}} <- ends, do: Counters.threads(os_pids, name)
      Process.sleep(seconds * 1_000)
      now = for {_, {os_pids, name}} <- ends, do: Counters.threads(os_pids, name)

      [beam, python] =
        for [_, wakeups, _] <- Enum.zip_with(now, before, &Counters.difference/2),
            do: wakeups / seconds

      group = "#{workers_text(size)}, idle"

      [
        row(group, "wake-ups", "/s", [snakepit: [beam + python]], {:at_most, 50}),
        row(group, "in the BEAM (Snakepit's threads)", "/s", [snakepit: [beam]], nil),
        row(group, "in the workers", "/s", [snakepit: [python]], nil)
      ]
    end)
  end

  # -- Large values --

  @sizes [{"64 KiB", 65_536, 1_000}, {"256 KiB", 262_144, 500}, {"512 KiB", 524_288, 300}] ++
           [{"1 MiB", 1_048_576, 200}, {"4 MiB", 4_194_304, 100}]

  def sizes(options) do
    with_peers(@binary, options, fn peers ->
      for {name, bytes, count} <- @sizes, row <- size(name, bytes, peers, count, options), do: row
    end)
  end

  defp size(name, bytes, peers, count, options) do
    value = :crypto.strong_rand_bytes(bytes)
    for peer <- peers, do: :ok = Peers.check!(peer, value)

    rounds =
      rounds(peers, options, fn peer ->
        times = times(peer, value, count(options, count))
        p50 = percentile(times, 50)
        %{p50: p50, tail: percentile(times, 99) / p50}
      end)

    group = "an echo of #{name}"

    [
      row(group, "p50", "us", series(rounds, & &1.p50), {:at_most, 1, :raw}),
      row(group, "p99 to p50", "ratio", series(rounds, & &1.tail), {:at_most, 3})
    ]
  end

  def large(options) do
    {medium, huge} = options.megabytes

    rounds = fn function, megabytes ->
      for _ <- 1..options.rounds do
        for peer <- [:snakepit, :raw],
            do: {peer, Beam.run(__MODULE__, function, [peer, megabytes, options])}
      end
    end

    cold_and_warm = rounds.(:cold_and_warm, medium)
    repeated = rounds.(:repeated, huge)
    row = &row("an echo of #{medium} MB", &1, "MB/s", series(cold_and_warm, &2), &3)
    rate = &row("an echo of #{huge} MB", &1, "MB/s", series(repeated, &2), &3)
    memory = &row("an echo of #{huge} MB", &1, "messages", series(repeated, &2), {:at_most, 2.5})

    [
      row.("first of a fresh BEAM", & &1.fresh_beam, {:at_least, 400}),
      row.("first of a fresh pool", & &1.fresh_pool, {:at_least, 400}),
      row.("warm", & &1.warm, {:at_least, 1000}),
      rate.("first of a fresh BEAM", & &1.first, nil),
      rate.("the slowest of the next four", & &1.slowest, {:at_least, 1000}),
      memory.("memory at its peak, BEAM", & &1.beam_memory),
      memory.("memory at its peak, Python", & &1.python_memory)
    ]
  end

  def cold_and_warm(name, megabytes, options) do
    value = value(megabytes)
    [fresh_beam | fresh_pools] = for _ <- 1..4, do: cold(name, value, options)
    {:ok, peer} = small_calls(name, megabytes, options)
    for _ <- 1..3, do: rate_of_one(peer, value)
    warm = for _ <- 1..10, do: rate_of_one(peer, value)
    %{fresh_beam: fresh_beam, fresh_pool: median(fresh_pools), warm: median(warm)}
  end

  defp cold(name, value, options) do
    {:ok, peer} = small_calls(name, div(byte_size(value), 1_000_000), options)
    rate = rate_of_one(peer, value)
    Peers.stop(peer)
    rate
  end

  def repeated(name, megabytes, options) do
    {:ok, %{os_pids: [python]} = peer} = small_calls(name, megabytes, options)
    ends = [System.pid(), python]
    for process <- Process.list(), do: :erlang.garbage_collect(process)
    before = Enum.map(ends, &Counters.resident/1)
    value = value(megabytes)
    Enum.each(ends, &Counters.reset_peak/1)
    [first | next] = for _ <- 1..5, do: rate_of_one(peer, value)

    [beam, python] =
      Enum.zip_with(ends, before, fn os_pid, before ->
        (Counters.peak(os_pid) - before) / byte_size(value)
      end)

    %{first: first, slowest: Enum.min(next), beam_memory: beam, python_memory: python}
  end

  # A peer that has answered small calls only.
  defp small_calls(name, megabytes, options) do
    [peer] = Peers.start([name], options, limit(name, megabytes))
    for _ <- 1..20, do: :ok = Peers.check!(peer, @text)
    {:ok, peer}
  end

  defp limit(:snakepit, megabytes), do: [max_message_size: (megabytes + 1) * 2_000_000]
  defp limit(_yardstick, _megabytes), do: []

  defp value(megabytes), do: :binary.copy(<<255>>, megabytes * 1_000_000)

  # MB/s. The caller is a process that ends, and leaves no reply in memory.
  defp rate_of_one(peer, value) do
    call = fn ->
      started = now()
      ^value = peer.echo.(value)
      now() - started
    end

    byte_size(value) * 1_000 / Task.await(Task.async(call), :infinity)
  end

  # -- Rounds, rows, figures --

  defp with_peers(names, options, settings \\ [], fun) do
    peers = Peers.start(names, options, settings)
    for peer <- peers, do: :ok = Peers.check!(peer, @text)
    rows = fun.(peers)
    Enum.each(peers, &Peers.stop/1)
    rows
  end

  # In every second round the peers come in the reverse order.
  defp rounds(peers, options, fun) do
    for round <- 1..options.rounds do
      peers = if rem(round, 2) == 0, do: Enum.reverse(peers), else: peers
      for peer <- peers, do: {peer.name, fun.(peer)}
    end
  end

  # The values of each peer, one for each round.
  defp series(rounds, fun) do
    for name <- @all,
        samples = for(round <- rounds, sample = round[name], do: fun.(sample)),
        samples != [],
        do: {name, samples}
  end

  defp row(group, name, unit, series, target),
    do: %{group: group, name: name, unit: unit, series: series, target: target}

  defp count(options, count), do: max(round(count * options.scale), 2)

  # In us, sorted.
  defp times(peer, value, count) do
    for _ <- 1..max(div(count, 10), 1), do: peer.echo.(value)
    :erlang.garbage_collect()

    times =
      for _ <- 1..count do
        started = now()
        peer.echo.(value)
        now() - started
      end

    times |> Enum.sort() |> Enum.map(&(&1 / 1000))
  end

  defp now, do: :erlang.monotonic_time(:nanosecond)

  defp percentile(sorted, percent) do
    Enum.at(sorted, min(div(length(sorted) * percent, 100), length(sorted) - 1))
  end

  defp median(values), do: values |> Enum.sort() |> percentile(50)
end
