defmodule Snakepit.Faults.Kill do
  @moduledoc false
  # Workers die and hang under load.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Load, OS}

  def trials do
    [
      %{
        name: "kill",
        about: "kill -9 of workers at random during unary calls, streams and sessions",
        short: true,
        run: &kill/1
      },
      %{
        name: "pause",
        about: "SIGSTOP of every worker during calls, and of idle workers",
        short: true,
        run: &pause/1
      }
    ]
  end

  defp kill(what) do
    pools =
      for {kind, options} <- kinds() do
        {pool, supervisor} = start_pool!(options)

        {kind, pool, supervisor,
         Load.start(pool, kinds: Load.kinds(kind), callers: 12, what: what)}
      end

    kills = times(what, 3, 150)

    each_at_once(pools, fn {_kind, pool, _supervisor, load} ->
      for _ <- 1..kills do
        # Use a running worker: the question here is what happens to the calls on it.
        wait("#{inspect(pool)} has a worker", fn -> serving(pool) != [] end)
        with [_ | _] = serving <- serving(pool), do: OS.signal(Enum.random(serving), "KILL")
        Load.goes_on(load, 30)
      end
    end)

    figure("kills", kills * length(pools))

    for {kind, pool, _supervisor, load} <- pools do
      Load.stop(load, kind, [:worker_crashed, :session_lost])
      ready!(pool)
      idle(pool)
    end

    stop_pools(for {_, pool, supervisor, _} <- pools, do: {pool, supervisor})
  end

  defp serving(pool) do
    case Snakepit.list_workers(pool) do
      {:ok, workers} ->
        for %{state: :ready, os_pid: os_pid} when is_integer(os_pid) <- workers, do: os_pid

      {:error, _} ->
        []
    end
  end

  defp idle(pool) do
    wait("#{inspect(pool)} has no call left", fn ->
      match?({:ok, %{in_flight: 0, queued: 0}}, Snakepit.stats(pool))
    end)
  end

  defp pause(what) do
    pools =
      for {kind, options} <- kinds() do
        times = [kill_grace: 500, health_interval: 500, health_misses: 3]
        {pool, supervisor} = start_pool!(options ++ times)
        {kind, pool, supervisor}
      end

    rounds = times(what, 1, 10)

    each_at_once(pools, fn {kind, pool, _} ->
      for _ <- 1..rounds do
        paused_under_calls(kind, pool, times(what, 1_000, 2_000))
        paused_while_idle(kind, pool)
      end
    end)

    stop_pools(for {_, pool, supervisor} <- pools, do: {pool, supervisor})
  end

  # Each call ends by its deadline, and the workers are replaced.
  defp paused_under_calls(kind, pool, timeout) do
    os_pids = OS.workers(pool)
    unique = System.unique_integer([:positive])
    files = for n <- 1..2, do: Path.join(System.tmp_dir!(), "#{kind}#{n}-#{unique}")

    calls =
      for file <- files,
          do: call(pool, "sleep", %{seconds: 600, started: file}, timeout)

    runs = running?(files, calls)
    OS.signal(os_pids, "STOP")
    waiting = for _ <- 1..8, do: call(pool, "add", %{a: 1}, 500)

    # A worker may be replaced in time to serve one of the waiting calls.
    for {tasks, allowed} <- [{calls, []}, {waiting, [:ok]}] do
      ended = tasks |> await_all("calls on paused workers") |> Enum.map(&outcome/1) |> Enum.uniq()
      wrong = ended -- [:timeout, :worker_crashed | allowed]
      must(wrong == [], "#{kind}: calls on paused workers ended with #{inspect(wrong)}")
    end

    gone(os_pids, "#{kind}: a paused worker stays")
    replaced(pool, os_pids, "#{kind}: paused workers are replaced")
    answers!(pool)
    unless runs, do: paused_under_calls(kind, pool, 2 * timeout)
  end

  defp call(pool, command, args, timeout) do
    options = [pool: pool, timeout: timeout, queue_timeout: 60_000]
    Task.async(fn -> Snakepit.execute(command, args, options) end)
  end

  # The health checks detect it.
  defp paused_while_idle(kind, pool) do
    os_pids = OS.workers(pool)
    started = now()
    OS.signal(os_pids, "STOP")
    gone(os_pids, "#{kind}: a paused idle worker stays")
    figure("#{kind}, an idle worker gone after", "#{now() - started} ms")
    replaced(pool, os_pids, "#{kind}: paused workers are replaced")
    answers!(pool)
  end

  defp answers!(pool) do
    {:ok, %{"result" => 3}} =
      Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, timeout: 60_000, queue_timeout: 60_000)
  end
end
