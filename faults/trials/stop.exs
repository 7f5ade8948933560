defmodule Snakepit.Faults.Stop do
  @moduledoc false
  # Pools stop and start again under load: no caller hangs, and no caller gets a false reason.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Beam, Load, OS}

  def trials do
    [
      %{
        name: "stop",
        about: "pools stop and start again while callers wait with :infinity",
        short: true,
        run: &stop/1
      },
      %{
        name: "stop-paused",
        about: "pools with paused workers (SIGSTOP) stop while callers wait with :infinity",
        short: true,
        run: &stop_paused/1
      },
      %{
        name: "crash",
        about: "a pool's manager, supervisor or worker supervisor is killed under load",
        short: true,
        run: &crash/1
      },
      %{
        name: "term-worker",
        about: "SIGTERM to workers, during a call and at random under load",
        short: true,
        run: &term_worker/1
      },
      %{
        name: "term-group",
        about: "SIGTERM to the BEAM and its workers at once, as when systemd stops a unit",
        short: true,
        run: &term_group/1
      }
    ]
  end

  defp stop(what) do
    for round <- 1..times(what, 1, 40) do
      loads =
        for {kind, options} <- kinds() do
          {pool, supervisor} = start_pool!([shutdown_timeout: 60_000] ++ options)
          load = forever(pool, kind, what, round)
          {kind, {pool, supervisor}, load, 20 + :rand.uniform(times(what, 20, 100))}
        end

      for {_, _, load, calls} <- loads, do: Load.goes_on(load, calls)
      stop_pools(for {_, pool, _, _} <- loads, do: pool)
      for {kind, _, load, _} <- loads, do: Load.judge(load, kind, [:pool_stopped])
    end
  end

  defp forever(pool, kind, what, round, options \\ []) do
    defaults = [
      kinds: Load.kinds(kind),
      timeout: :infinity,
      queue_timeout: :infinity,
      stops: true
    ]

    what = %{what | seed: what.seed + round}
    Load.start(pool, Keyword.merge(defaults ++ [what: what], options))
  end

  defp stop_paused(what) do
    for round <- 1..times(what, 1, 20), {kind, options} <- kinds() do
      times = [shutdown_timeout: 300, kill_grace: 300]
      {pool, supervisor} = start_pool!(times ++ options)
      load = forever(pool, kind, what, round, kinds: [:quick])
      # Long enough that calls are sent ahead.
      Load.goes_on(load, 500)
      OS.signal(OS.workers(pool), "STOP")
      stop_pools([{pool, supervisor}])
      Load.judge(load, kind, [:pool_stopped, :worker_crashed, :cancelled])
    end
  end

  defp crash(what) do
    for round <- 1..times(what, 1, 15),
        who <- times(what, [:manager], [:manager, :workers, :pool]) do
      pools =
        for {kind, options} <- kinds() do
          {pool, supervisor} = start_pool!(options)
          load = forever(pool, kind, what, round, stops: false, forgets: true)
          {kind, pool, supervisor, load}
        end

      each_at_once(pools, fn {kind, pool, supervisor, load} ->
        Load.goes_on(load, 20)
        os_pids = OS.workers(pool)
        Process.exit(child(supervisor, who), :kill)
        gone(os_pids, "#{kind}: a worker outlives the death of its pool's #{who}")

        wait("#{kind}: the pool answers again after the death of its #{who}", fn ->
          outcome(Snakepit.execute("add", %{a: 1}, pool: pool)) == :ok
        end)

        Load.goes_on(load, 20)
      end)

      allowed = [:pool_stopped, :worker_crashed, :session_lost, :cancelled]
      for {kind, _, _, load} <- pools, do: Load.stop(load, "#{kind}, #{who}", allowed)
      stop_pools(for {_, pool, supervisor, _} <- pools, do: {pool, supervisor})
    end
  end

  defp child(supervisor, :pool) do
    [{_, pid, _, _}] = Supervisor.which_children(supervisor)
    pid
  end

  defp child(supervisor, who) do
    module = %{manager: Snakepit.Pool.Manager, workers: Snakepit.Pool.WorkerSupervisor}[who]
    children = supervisor |> child(:pool) |> Supervisor.which_children()
    {_, pid, _, _} = Enum.find(children, fn {id, _, _, _} -> id == module end)
    pid
  end

  defp term_worker(what) do
    for {kind, options} <- kinds() do
      {pool, supervisor} = start_pool!([size: 1, shutdown_timeout: 60_000] ++ options)
      term_during_a_call(kind, pool)
      load = forever(pool, kind, what, 1, callers: 8)

      for _ <- 1..times(what, 1, 40) do
        [os_pid] = OS.workers(pool)
        OS.signal(os_pid, "TERM")
        gone([os_pid], "#{kind}: a worker stays after SIGTERM")
        Load.goes_on(load, 20)
      end

      Load.stop(load, kind, [:session_lost])
      stop_pools([{pool, supervisor}])
    end
  end

  defp term_during_a_call(kind, pool) do
    [started, until] =
      for name <- ~w(started until), do: Path.join(System.tmp_dir!(), "#{kind}-#{name}")

    options = [pool: pool, timeout: :infinity, queue_timeout: :infinity]
    args = %{started: started, until: until}
    running = Task.async(fn -> Snakepit.execute("hold", args, options) end)
    wait("the call runs", fn -> File.exists?(started) end)
    queued = for n <- 1..4, do: Task.async(fn -> Snakepit.execute("add", %{a: n}, options) end)
    [os_pid] = OS.workers(pool)
    OS.signal(os_pid, "TERM")
    wait("the worker has SIGTERM", fn -> not OS.pending?(os_pid, 15) end)
    File.touch!(until)
    [outcome] = await_all([running], "the running call") |> Enum.map(&outcome/1)

    must(
      outcome == :ok,
      "#{kind}: SIGTERM to its worker ended the running call with #{inspect(outcome)}"
    )

    outcomes = await_all(queued, "the queued calls") |> Enum.map(&outcome/1)

    must(
      Enum.all?(outcomes, &(&1 == :ok)),
      "#{kind}: calls that waited meanwhile: #{inspect(outcomes)}"
    )

    # They may have run on the worker that stops, which was ready then.
    gone([os_pid], "#{kind}: a worker stays after SIGTERM")
    wait("another worker", fn -> OS.workers(pool) != [] end)
    ready!(pool)
  end

  defp term_group(what) do
    for _ <- 1..times(what, 1, 5), do: each_at_once(Keyword.keys(kinds()), &term_group_once/1)
    left = Path.wildcard(Path.join(System.tmp_dir!(), "snakepit-*"))
    must(left == [], "a BEAM that stopped has left its folder")
  end

  defp term_group_once(kind) do
    [started, until] =
      for name <- ~w(started until),
          do: Path.join(System.tmp_dir!(), "#{kind}#{System.unique_integer([:positive])}-#{name}")

    beam =
      "serving"
      |> Beam.start!(kind: kind, started: started, until: until)
      |> Beam.await("ready")

    [os_pid] = OS.children(beam.os_pid, "--worker-id")
    OS.signal([beam.os_pid, os_pid], "TERM")
    beam = Beam.await(beam, "stopping")
    File.touch!(until)
    {lines, status} = Beam.finish(beam)

    ends =
      for "call " <> text <- lines,
          [name, how] = String.split(text, " ", parts: 2),
          into: %{},
          do: {name, how}

    {running, queued} = Map.pop(ends, "running")
    must(running == "ok", "#{kind}: the call that ran ended with #{inspect(running)}")

    for {name, how} <- queued do
      must(
        how == "ok" or String.starts_with?(how, "pool_stopped"),
        "#{kind}: #{name} ended with #{how}"
      )
    end

    must(map_size(queued) == 4, "#{kind}: of 4 queued calls #{map_size(queued)} ended")
    must(status == 0, "#{kind}: the BEAM ended with status #{status}")
    gone([os_pid], "#{kind}: a worker outlives its BEAM's SIGTERM")

    figure(
      "#{kind}:",
      "running #{running}, #{Enum.count(queued, fn {_, how} -> how == "ok" end)} of 4 queued ok"
    )
  end
end
