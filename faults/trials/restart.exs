defmodule Snakepit.Faults.Restart do
  @moduledoc false
  # The workers of pools are replaced one after another under load.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Load, OS}

  def trials do
    [
      %{
        name: "restart",
        about: "every worker is replaced again and again (Snakepit.restart/2) under load",
        short: true,
        run: &restart/1
      },
      %{
        name: "restart-kill",
        about: "kill -9 of old and new workers at random while all are replaced under load",
        short: false,
        run: &restart_kill/1
      }
    ]
  end

  defp restart(what) do
    for {kind, options} <- kinds() do
      {pool, supervisor} = start_pool!([size: 2, shutdown_timeout: 60_000] ++ options)
      load = load(pool, kind, what)

      for _ <- 1..times(what, 2, 10) do
        before = OS.workers(pool)
        result = Snakepit.restart(pool)
        must(result == :ok, "#{kind}: a restart ended with #{inspect(result)}")
        gone(before, "#{kind}: a worker outlives its replacement")
        Load.goes_on(load, 20)
      end

      Load.stop(load, kind, [:session_lost])
      must(length(OS.workers(pool)) == 2, "#{kind}: the pool of 2 has another number of workers")
      stop_pools([{pool, supervisor}])
    end
  end

  defp restart_kill(what) do
    for {kind, options} <- kinds() do
      {pool, supervisor} = start_pool!([size: 2, shutdown_timeout: 60_000] ++ options)
      load = load(pool, kind, what)

      results =
        for _ <- 1..times(what, 2, 8) do
          restart = Task.async(fn -> Snakepit.restart(pool) end)
          Load.goes_on(load, :rand.uniform(100))
          OS.signal(Enum.random(OS.workers(pool)), "KILL")
          [result] = await_all([restart], "#{kind}: the restart")
          Load.goes_on(load, 20)
          outcome(result)
        end

      for result <- results,
          do: must(result in [:ok, :worker_start_failed], "#{kind}: #{inspect(result)}")

      figure(
        "#{kind}:",
        "#{Enum.count(results, &(&1 == :ok))} of #{length(results)} restarts done"
      )

      Load.stop(load, kind, [:session_lost, :worker_crashed, :cancelled])
      ready!(pool)
      wait("#{kind}: the pool has its size", fn -> length(OS.workers(pool)) == 2 end)
      stop_pools([{pool, supervisor}])
    end
  end

  defp load(pool, kind, what) do
    options = [kinds: Load.kinds(kind), timeout: :infinity, queue_timeout: :infinity]
    Load.start(pool, options ++ [callers: 8, what: what])
  end
end
