defmodule Snakepit.Faults.Soak do
  @moduledoc false
  # Runs all kinds of calls for a long time, and samples the memory.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Load, OS}

  # In MB per minute, over the second half; a form that takes seconds has too few samples for a
  # verdict.
  @growth_mb 2.0

  def trials do
    [
      %{
        name: "soak",
        about: "every kind of call, with errors, timeouts and killed callers; memory is sampled",
        short: true,
        run: &soak/1
      }
    ]
  end

  defp soak(what) do
    seconds = times(what, 3, 600)

    pools =
      for {kind, options} <- kinds() do
        {pool, supervisor} = start_pool!([max_sessions: 100, kill_grace: 60_000] ++ options)

        {kind, pool, supervisor,
         Load.start(pool, kinds: Load.kinds(kind), callers: 4, what: what)}
      end

    rough = for {_, pool, _, _} <- pools, do: Task.async(fn -> rough(pool, 0) end)
    os_pids = for {kind, pool, _, _} <- pools, os_pid <- OS.workers(pool), do: {kind, os_pid}
    # The record of the calls belongs to the suite.
    records = fn ->
      pools |> Enum.map(fn {_, _, _, load} -> Load.megabytes(load) end) |> Enum.sum()
    end

    measured = [{:BEAM, fn -> OS.rss(OS.own_pid()) - records.() end} | Enum.map(os_pids, &rss/1)]
    samples = sample(measured, now(), now() + seconds * 1000, [])
    for task <- rough, do: send(task.pid, :stop)
    figure("rough calls", rough |> await_all("rough callers") |> Enum.sum())
    for {kind, _, _, load} <- pools, do: Load.stop(load, kind, [])

    names = [{:BEAM, 0} | os_pids] |> Enum.uniq_by(&elem(&1, 0)) |> Keyword.keys()
    for name <- names, do: memory(name, samples, what)
    figure("tasks of the runtime", Snakepit.Native.runtime_tasks())
    stop_pools(for {_, pool, supervisor, _} <- pools, do: {pool, supervisor})
  end

  # The slope over a few seconds means nothing.
  defp memory(name, samples, %{form: :short}), do: figure("#{name}:", range(name, samples))

  defp memory(name, samples, %{form: :long}) do
    growth = Float.round(growth(samples, name), 2)
    figure("#{name}:", "#{range(name, samples)}, over its second half #{growth} MB a minute")
    must(growth < @growth_mb, "#{name} grows by #{growth} MB a minute")
  end

  defp range(name, samples) do
    [first, last] = for {_ms, sizes} <- [List.last(samples), hd(samples)], do: round(sizes[name])
    "#{first} to #{last} MB"
  end

  defp rss({kind, os_pid}), do: {kind, fn -> OS.rss(os_pid) end}

  # {ms, the largest value of each name}
  defp sample(processes, began, until, samples) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)

    sizes =
      Enum.reduce(processes, %{}, fn {name, measure}, sizes ->
        size = measure.()
        Map.update(sizes, name, size, &max(&1, size))
      end)

    samples = [{now() - began, sizes} | samples]

    if now() < until do
      receive do
      after
        500 -> sample(processes, began, until, samples)
      end
    else
      samples
    end
  end

  # The slope of a line through the second half of the samples, in MB per minute.
  defp growth(samples, name) do
    points =
      for {ms, sizes} <- Enum.take(samples, max(div(length(samples), 2), 2)),
          do: {ms / 60_000, sizes[name]}

    count = length(points)

    {x, y} =
      {Enum.sum(for({x, _} <- points, do: x)) / count,
       Enum.sum(for({_, y} <- points, do: y)) / count}

    above = Enum.sum(for {px, py} <- points, do: (px - x) * (py - y))
    below = Enum.sum(for {px, _} <- points, do: (px - x) * (px - x))
    if below == 0, do: 0.0, else: above / below
  end

  defp rough(pool, count) do
    receive do
      :stop -> count
    after
      5 ->
        once(:rand.uniform(4), pool)
        rough(pool, count + 1)
    end
  end

  defp once(1, pool) do
    {:error, %{reason: :python_error}} = call(pool, "fail", %{message: "no"}, 60_000)
  end

  defp once(2, pool) do
    seen = Path.join(System.tmp_dir!(), "seen")
    {:error, %{reason: :timeout}} = call(pool, "wait_cancelled", %{seen: seen}, 20)
  end

  defp once(3, pool) do
    seen = Path.join(System.tmp_dir!(), "seen")
    pid = spawn(fn -> call(pool, "wait_cancelled", %{seen: seen}, 60_000) end)

    receive do
    after
      5 -> Process.exit(pid, :kill)
    end
  end

  defp once(4, pool) do
    bytes = :crypto.strong_rand_bytes(:rand.uniform(200_000))
    {:ok, %{"x" => ^bytes}} = call(pool, "echo", %{x: Snakepit.bytes(bytes)}, 60_000)
  end

  defp call(pool, command, args, timeout) do
    Snakepit.execute(command, args, pool: pool, timeout: timeout, queue_timeout: 60_000)
  end
end
