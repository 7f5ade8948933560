defmodule Snakepit.Faults.Output do
  @moduledoc false
  # Workers print without end: nothing waits behind their lines, and they do not fill the BEAM.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.OS

  # How much the BEAM may grow while workers print. Whatever they print, the growth is bounded.
  @growth_mb %{short: 50, long: 100}

  def trials do
    [
      %{
        name: "print",
        about: "workers print as fast as they can during calls with deadlines",
        short: true,
        run: &print/1
      },
      %{
        name: "print-kill",
        about:
          "a command that prints forever exceeds its deadline; its pool stops while another command prints",
        short: true,
        run: &print_kill/1
      }
    ]
  end

  # Each worker more than the growth that the BEAM may have.
  defp print(what) do
    megabytes = times(what, 60, 2_000)
    # The console's lines go to the suite, which discards them.
    Logger.configure(level: :info)
    pools = for {kind, options} <- kinds(), do: {kind, start_pool!([size: 1] ++ options)}
    own = OS.own_pid()
    before = OS.rss(own)
    watch = OS.watch([own])

    for {_, {pool, _}} <- pools,
        do: {:ok, _} = execute(pool, "print_megabytes", %{megabytes: megabytes})

    each_at_once(pools, fn {kind, {pool, _}} -> call_while_printing(kind, pool, megabytes) end)
    growth = OS.peaks(watch)[own] - before
    figure("printed by each worker", "#{megabytes} MB")
    figure("the BEAM's memory grew by", "#{Float.round(growth, 1)} MB")

    must(
      growth < @growth_mb[what.form],
      "workers that print filled the BEAM by #{round(growth)} MB"
    )

    for {_, {pool, _}} <- pools, do: {:ok, %{healthy: true}} = Snakepit.health(pool)
    stop_pools(for {_, pool} <- pools, do: pool)
  end

  defp call_while_printing(kind, pool, megabytes) do
    times = call_until_printed(pool, megabytes * 1024 * 1024, [])

    figure(
      "#{kind}: #{length(times)} concurrent calls, p50 and max",
      "#{percentile(times, 50)}, #{percentile(times, 100)} ms"
    )
  end

  defp call_until_printed(pool, bytes, times) do
    case :timer.tc(fn -> execute(pool, "printed", %{}) end) do
      {time, {:ok, %{"result" => printed}}} when printed >= bytes ->
        [time | times]

      {time, {:ok, _}} ->
        call_until_printed(pool, bytes, [time | times])

      {_, {:error, error}} ->
        throw({:gave_up, "a call beside a worker that prints: #{Exception.message(error)}"})
    end
  end

  defp execute(pool, command, args),
    do: Snakepit.execute(command, args, pool: pool, timeout: 60_000, queue_timeout: 60_000)

  defp print_kill(what) do
    Logger.configure(level: :info)
    # All the while, commands print.
    wait = times(what, 200, 500)
    times = [size: 1, shutdown_timeout: wait, kill_grace: wait]
    pools = for {kind, options} <- kinds(), do: {kind, start_pool!(times ++ options)}

    each_at_once(pools, fn {kind, {pool, _}} ->
      print_past_deadline(kind, pool, times(what, 300, 1_000))
      {:ok, _} = execute(pool, "ping", %{})
    end)

    printing = for {kind, {pool, _}} <- pools, do: {kind, print_for_ever(pool, :infinity)}
    began = now()
    stop_pools(for {_, pool} <- pools, do: pool)
    figure("all three stopped in", "#{now() - began} ms")

    for {kind, %{task: task}} <- printing do
      [outcome] = await_all([task], "calls of a worker that prints") |> Enum.map(&outcome/1)
      must(outcome != :ok, "#{kind}: a call that never ends has ended")
    end
  end

  defp print_past_deadline(kind, pool, timeout) do
    call = print_for_ever(pool, timeout)
    ran = call.runs
    began = now()
    [outcome] = await_all([call.task], "calls of a worker that prints") |> Enum.map(&outcome/1)
    must(outcome == :timeout, "#{kind}: a call past its deadline ended with #{inspect(outcome)}")

    if ran do
      gone([call.os_pid], "#{kind}: a worker that prints forever outlives its call's deadline")
      figure("#{kind}: a deadline of #{timeout} ms, the worker gone after", "#{now() - began} ms")
    else
      # The worker may have been killed before the call's first line: then the next one answers.
      {:ok, _} = execute(pool, "ping", %{})
      print_past_deadline(kind, pool, 2 * timeout)
    end
  end

  defp print_for_ever(pool, timeout) do
    [os_pid] = OS.workers(pool)
    started = Path.join(System.tmp_dir!(), "printing#{System.unique_integer([:positive])}")
    options = [pool: pool, timeout: timeout, queue_timeout: 60_000]
    task = Task.async(fn -> Snakepit.execute("print_for_ever", %{started: started}, options) end)
    %{task: task, os_pid: os_pid, runs: running?([started], [task])}
  end
end
