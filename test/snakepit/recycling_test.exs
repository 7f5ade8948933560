defmodule Snakepit.RecyclingTest do
  # Workers are replaced when they have reached a limit, and pools change their size, while calls run.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.Pool.Lifetime
  alias Snakepit.Test.Code

  @moduletag :tmp_dir
  @patience 60_000
  @mebi 1024 * 1024

  def tell([:snakepit | event], measurements, %{pool: pool} = metadata, {pid, pool}),
    do: send(pid, {event, measurements, metadata})

  def tell(_event, _measurements, _metadata, _other_pool), do: :ok

  defp attach(pool, events) do
    me = self()
    ids = for event <- events, do: {{me, event}, event}
    for {id, event} <- ids, do: :telemetry.attach(id, event, &__MODULE__.tell/4, {me, pool})
    on_exit(fn -> for {id, _event} <- ids, do: :telemetry.detach(id) end)
  end

  defp event(name) do
    assert_receive {^name, measurements, metadata}, @patience
    {measurements, metadata}
  end

  defp start!(dir, options) do
    File.write!(Path.join(dir, "lives.py"), """
    import os
    import time
    from pathlib import Path
    from snakepit_bridge import Adapter, Context, command

    KEPT = []

    class Lives(Adapter):
        @command
        def place(self, context: Context):
            return {"pid": os.getpid(), "slot": context.worker_slot}

        @command
        def turn(self, context: Context):
            context.session["turns"] = context.session.get("turns", 0) + 1
            return {"pid": os.getpid(), "turns": context.session["turns"]}

        @command
        def keep(self, megabytes: int):
            KEPT.append(b"x" * (megabytes * 1024 * 1024))
            return os.getpid()

        @command
        def keep_and_wait(self, megabytes: int):
            self.keep(megabytes)
            while True:
                time.sleep(0.01)

        @command
        def hold(self, started: str, until: str):
            Path(started).touch()
            while not Path(until).exists():
                time.sleep(0.01)
            return os.getpid()
    """)

    args = [class: "lives:Lives", paths: [dir]]
    start_pool!([adapter_args: args] ++ options)
  end

  # Callers that call until they are stopped. Each returns its errors and the places that answered. They pause between
  # calls, which leaves processor time for the start of workers.
  defp load(pool, callers) do
    for _ <- 1..callers, do: Task.async(fn -> call(pool, [], MapSet.new()) end)
  end

  defp call(pool, errors, places) do
    receive do
      :stop -> {errors, places}
    after
      10 ->
        case Snakepit.execute("place", %{}, pool: pool) do
          {:ok, place} -> call(pool, errors, MapSet.put(places, {place["slot"], place["pid"]}))
          {:error, error} -> call(pool, [error | errors], places)
        end
    end
  end

  defp stop(tasks) do
    for task <- tasks, do: send(task.pid, :stop)
    {errors, places} = tasks |> Task.await_many(@patience) |> Enum.unzip()
    {Enum.concat(errors), Enum.reduce(places, &MapSet.union/2)}
  end

  defp served?(pool, slot) do
    {:ok, workers} = Snakepit.list_workers(pool)
    Enum.any?(workers, &(&1.slot == slot and (&1.requests || 0) > 0))
  end

  # Until `done?`, the pool is never seen with fewer ready workers than `size`.
  defp never_below(pool, size, done?) do
    eventually(fn ->
      {:ok, stats} = Snakepit.stats(pool)
      assert stats.ready >= size
      done?.(stats)
    end)
  end

  for {way, options} <- ways() do
    @options options

    test "#{way}: no call fails while workers are recycled, restarted, added and removed", %{
      tmp_dir: dir
    } do
      pool = start!(dir, [size: 2, max_concurrency: 2, max_requests: 500] ++ @options)
      before = os_pids(pool)
      load = load(pool, 8)
      never_below(pool, 2, &(&1.recycled >= 2))
      eventually(fn -> not Enum.any?(before, fn pid -> alive?(pid) end) end)

      assert Snakepit.restart(pool) == :ok
      assert Snakepit.resize(pool, 3) == :ok
      assert await_ready(pool) == :ok
      assert {:ok, %{size: 3}} = Snakepit.stats(pool)
      assert {:ok, %{size: 3}} = Snakepit.info(pool)
      eventually(fn -> served?(pool, 2) end)
      assert Snakepit.resize(pool, 1) == :ok
      never_below(pool, 1, fn _stats -> slots(pool) == [0] end)
      {errors, places} = stop(load)

      assert errors == []
      slots = Enum.group_by(places, &elem(&1, 0), &elem(&1, 1))
      assert slots |> Map.keys() |> Enum.sort() == [0, 1, 2]
      # No process had another slot at any time.
      assert places |> Enum.map(&elem(&1, 1)) |> Enum.uniq() |> length() == MapSet.size(places)
    end

    test "#{way}: a recycled worker serves its sessions until they end", %{tmp_dir: dir} do
      pool = start!(dir, [max_requests: 4, session_ttl: :infinity] ++ @options)
      turn = &Snakepit.execute_in_session(&1, "turn", %{}, [pool: pool] ++ &2)
      assert {:ok, %{"turns" => 1, "pid" => old}} = turn.("stays", [])
      assert {:ok, %{"turns" => 1, "pid" => ^old}} = turn.("moves", [])
      for _ <- 1..2, do: {:ok, _} = Snakepit.execute("place", %{}, pool: pool)
      eventually(fn -> match?({:ok, %{recycled: 1}}, Snakepit.stats(pool)) end)

      assert {:ok, %{"pid" => new}} = Snakepit.execute("place", %{}, pool: pool)
      assert new != old
      assert {:ok, %{"turns" => 2, "pid" => ^old}} = turn.("stays", [])
      assert {:ok, %{"turns" => 1, "pid" => moved}} = turn.("moves", affinity: :prefer)
      assert moved != old
      assert {:ok, %{"turns" => 3, "pid" => ^old}} = turn.("stays", [])
      assert :draining in states(pool)

      :ok = Snakepit.end_session("stays", pool: pool)
      eventually(fn -> not alive?(old) end)
      assert {:ok, %{"turns" => 1}} = turn.("stays", [])
    end

    test "#{way}: a worker past :max_memory is recycled, and past twice as much killed", %{
      tmp_dir: dir
    } do
      # Of these the interpreter and its libraries use less than a half.
      max = 100 * @mebi
      options = [max_memory: max, health_interval: :infinity] ++ @options
      pool = start!(dir, options)
      attach(pool, [[:snakepit, :worker, :recycled], [:snakepit, :worker, :killed]])
      keep = &Snakepit.execute(&1, %{megabytes: &2}, pool: pool)

      # No health check is made: it is measured after the call.
      assert {:ok, %{"result" => old}} = keep.("keep", 110)
      assert {%{age: age}, metadata} = event([:worker, :recycled])
      assert age > 0 and metadata.reason == :max_memory
      assert metadata.why =~ ~r/it uses \d+ bytes of memory \(:max_memory\)/
      eventually(fn -> not alive?(old) end)

      log =
        capture_log(fn ->
          assert {:ok, %{"result" => _}} = keep.("keep", 220)
          assert {_, %{why: why}} = event([:worker, :killed])
          assert why =~ "more than twice :max_memory, #{max} bytes"
          eventually(fn -> match?({:ok, %{"pid" => _}}, place(pool)) end)
        end)

      assert log =~ "is killed: it uses"
    end
  end

  defp place(pool), do: Snakepit.execute("place", %{}, pool: pool)

  test "memory is measured at health checks as well, and a call of a killed worker says why", %{
    tmp_dir: dir
  } do
    pool = start!(dir, max_memory: 100 * @mebi, health_interval: 100)

    assert {:error, %Error{reason: :worker_crashed, message: message}} =
             Snakepit.execute("keep_and_wait", %{megabytes: 300}, pool: pool)

    assert message =~ "more than twice :max_memory"
  end

  test "a worker is recycled at its age, again and again", %{tmp_dir: dir} do
    pool = start!(dir, max_age: 200)
    attach(pool, [[:snakepit, :worker, :recycled]])

    for _ <- 1..2 do
      assert {_, %{reason: :max_age, why: why}} = event([:worker, :recycled])
      assert why =~ ~r/it has been ready for \d+ ms \(:max_age\)/
    end

    assert {:ok, %{"pid" => _}} = place(pool)
    assert {:ok, %{max_age: 200, max_requests: :infinity}} = Snakepit.info(pool)
  end

  test "a worker whose replacement does not start keeps running, and is replaced later", %{
    tmp_dir: dir
  } do
    Code.write!(dir, 1)
    pool = Code.start_pool!(dir, max_requests: 2, restart_backoff: {50, 100})
    Code.write!(dir, 2, "def broken(:")

    log =
      capture_log(fn ->
        {1, old} = Code.version(pool)
        {1, ^old} = Code.version(pool)
        eventually(fn -> length(Code.importing(dir)) == 1 and states(pool) == [:ready] end)
        for _ <- 1..5, do: assert({1, ^old} = Code.version(pool))
        eventually(fn -> failed_starts(pool) >= 1 end)
        Code.write!(dir, 2)
        eventually(fn -> match?({2, _pid}, Code.version(pool)) end)
      end)

    assert log =~
             "keeps running: it has served 2 calls (:max_requests), but it cannot be replaced yet"

    assert log =~ "def broken(:"
  end

  defp failed_starts(pool) do
    {:ok, %{manager: manager}} = Snakepit.Pool.Registry.fetch(pool)
    map_size(:sys.get_state(manager).start_log)
  end

  test "a worker that is removed finishes its calls, however long they take", %{tmp_dir: dir} do
    pool = start!(dir, size: 2, shutdown_timeout: 1)
    until = Path.join(dir, "until")

    held =
      for n <- 1..2 do
        args = %{started: Path.join(dir, "started#{n}"), until: until}
        task = Task.async(fn -> Snakepit.execute("hold", args, pool: pool) end)
        eventually(fn -> File.exists?(args.started) end)
        task
      end

    attach(pool, [[:snakepit, :pool, :resized]])
    assert Snakepit.resize(pool, 1) == :ok
    assert {%{size: 1, previous_size: 2}, %{pool: ^pool}} = event([:pool, :resized])
    assert eventually(fn -> states(pool) == [:ready, :draining] end)
    # Grows again while the removed one has its call.
    assert Snakepit.resize(pool, 2) == :ok
    assert await_ready(pool) == :ok
    assert states(pool) |> Enum.sort() == [:draining, :ready, :ready]
    File.touch!(until)
    assert [{:ok, %{"result" => one}}, {:ok, %{"result" => two}}] = await_many(held)
    assert one != two
    eventually(fn -> states(pool) == [:ready, :ready] end)
  end

  test "a pool grows and shrinks while its workers do not start", %{tmp_dir: dir} do
    Code.write!(dir, 1, "def broken(:")
    pool = Code.start_pool_unready!(dir, size: 2, restart_backoff: {50, 100})

    capture_log(fn ->
      eventually(fn -> match?({:error, %Error{reason: :worker_start_failed}}, place(pool)) end)
      assert Snakepit.resize(pool, 3) == :ok
      assert Snakepit.resize(pool, 1) == :ok
      eventually(fn -> match?({:error, %Error{reason: :worker_start_failed}}, place(pool)) end)
      Code.write!(dir, 1)
      assert await_ready!(pool)
      assert {1, _pid} = Code.version(pool)
    end)

    # Those that were starting exit.
    eventually(fn -> slots(pool) == [0] end)
  end

  # It returns the errors of earlier attempts.
  defp await_ready!(pool), do: eventually(fn -> Snakepit.Pool.await_ready(pool) == :ok end)

  for {way, options} <- ways() do
    @options options

    test "#{way}: a worker that had to exit before it could get SIGTERM exits when it has started",
         %{
           tmp_dir: dir
         } do
      held = Path.join(dir, "held")
      File.touch!(held)
      # It ignores the signal as a process of the BEAM's port program does at first.
      python = Path.join(dir, "python")

      File.write!(python, """
      #!/bin/sh
      trap '' TERM
      touch "#{dir}/waiting$$"
      while [ -e "#{held}" ]; do sleep 0.01; done
      trap - TERM
      exec "#{Path.expand(".venv/bin/python")}" "$@"
      """)

      File.chmod!(python, 0o755)
      pool = start_pool_unready!([size: 2, python: python] ++ @options)
      eventually(fn -> length(Path.wildcard(Path.join(dir, "waiting*"))) == 2 end)
      {:ok, %{manager: manager}} = Snakepit.Pool.Registry.fetch(pool)
      %{workers: [_kept, %{pid: removed}]} = GenServer.call(manager, :overview, @patience)
      assert Snakepit.resize(pool, 1) == :ok
      eventually(fn -> :sys.get_state(removed).membership.leaving == :exiting end)
      File.rm!(held)
      assert await_ready(pool) == :ok
      eventually(fn -> slots(pool) == [0] end)
    end
  end

  test "resize/2 refuses what is no size, and a slot without an environment" do
    env = fn slot -> if slot < 2, do: %{}, else: :none end
    pool = start_pool!(env: env)

    for size <- [0, -1, "2", 1.0, nil, 20_000] do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Snakepit.resize(pool, size)

      assert message =~ "the option :size must be an integer above 0, at most 10000"
    end

    assert {:error, %Error{reason: :invalid_options, message: message}} = Snakepit.resize(pool, 3)
    assert message =~ "called for the slot 2"
    assert {:ok, %{size: 1}} = Snakepit.stats(pool)
    assert Snakepit.resize(pool, 1) == :ok
    assert {:error, %Error{reason: :pool_stopped}} = Snakepit.resize(:no_pool, 2)
  end

  test "a failed worker that is no longer wanted fails no calls" do
    # Python does not start without its own modules.
    env = fn slot -> if slot == 0, do: %{}, else: %{"PYTHONHOME" => "/nowhere"} end
    pool = start_pool!(size: 1, env: env, restart_backoff: {60_000, 60_000})
    # One that has answered a call is replaced at once.
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
    assert Snakepit.resize(pool, 2) == :ok
    {:ok, %{manager: manager}} = Snakepit.Pool.Registry.fetch(pool)
    eventually(fn -> map_size(:sys.get_state(manager).workers.failed) == 1 end)
    assert Snakepit.resize(pool, 1) == :ok
    assert {:ok, [%{os_pid: os_pid}]} = Snakepit.list_workers(pool)
    signal("KILL", os_pid)
    eventually(fn -> not match?({:ok, [%{os_pid: ^os_pid}]}, Snakepit.list_workers(pool)) end)
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool, queue_timeout: @patience)
  end

  test "each worker draws its own limits, at most a quarter below the options" do
    options = %{max_requests: 1000, max_age: 1_000_000, max_memory: 1000}
    drawn = for _ <- 1..100, do: Lifetime.new(options)

    for limit <- [:requests, :memory, :age] do
      values = Enum.map(drawn, &Map.fetch!(&1, limit))
      max = if limit == :age, do: 1_000_000, else: 1000
      assert Enum.all?(values, &(&1 in div(3 * max, 4)..max))
      assert values |> Enum.uniq() |> length() > 10
    end

    none = %{max_requests: :infinity, max_age: :infinity, max_memory: :infinity}
    assert Lifetime.report_at(Lifetime.new(none)) == nil
    assert Lifetime.report_at(Lifetime.new(%{none | max_requests: 1})) == 1
  end

  test "the limits are checked at the pool's start" do
    for {option, expected} <- [
          {[max_requests: 0], "an integer above 0, or :infinity"},
          {[max_requests: nil], "an integer above 0, or :infinity"},
          {[max_age: 0], "milliseconds above 0"},
          {[max_memory: "1 GB"], "a number of bytes above 0, or :infinity"},
          {[max_memory: 0], "a number of bytes above 0, or :infinity"}
        ] do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Snakepit.Pool.start_link([name: __MODULE__.Wrong] ++ option)

      assert message =~ expected
    end
  end

  defp states(pool) do
    {:ok, workers} = Snakepit.list_workers(pool)
    Enum.map(workers, & &1.state)
  end

  defp slots(pool) do
    {:ok, workers} = Snakepit.list_workers(pool)
    Enum.map(workers, & &1.slot)
  end
end
