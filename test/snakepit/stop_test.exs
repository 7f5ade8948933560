defmodule Snakepit.StopTest do
  # Nothing is lost, and nobody waits forever, while a pool or one of its workers stops.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Native, Pool.Registry}

  @moduletag :tmp_dir
  @patience 60_000
  @endless [timeout: :infinity, queue_timeout: :infinity]

  for {way, options} <- ways() do
    @options options

    describe "#{way}: a worker that gets SIGTERM" do
      test "finishes its calls, gets no more, and is replaced", %{tmp_dir: dir} do
        pool = start_pool!([max_concurrency: 2, shutdown_timeout: @patience] ++ @options)
        held = [hold(pool, dir, "one"), hold_last(@options, pool, dir)]
        os_pid = hd(held).os_pid
        signal("TERM", os_pid)
        eventually(fn -> states(pool) == [:draining] end, @patience)
        waiting = for _ <- 1..4, do: call(pool, "pid", %{})
        eventually(fn -> queued(pool) == 4 end, @patience)
        Enum.each(held, &free/1)

        for {:ok, %{"pid" => next}} <- Task.await_many(waiting, @patience),
            do: assert(next != os_pid)

        refute alive?(os_pid)
      end

      test "exits even if its calls do not end", %{tmp_dir: dir} do
        pool = start_pool!([shutdown_timeout: 100, kill_grace: 100] ++ @options)
        held = hold(pool, dir, "one")
        signal("TERM", held.os_pid)
        # It has run: with another reason its caller would try again.
        assert {:error, %Error{reason: :worker_crashed}} = Task.await(held.task, @patience)
        assert {:ok, %{"pid" => next}} = Task.await(call(pool, "pid", %{}), @patience)
        assert next != held.os_pid
      end

      test "after its time gives one reason to all kinds of calls, however they end", %{
        tmp_dir: dir
      } do
        pool =
          start_pool!([shutdown_timeout: 100, kill_grace: 100, max_concurrency: 3] ++ @options)

        held = [hold(pool, dir, "one"), hold_async(pool, dir), hold_last(@options, pool, dir)]
        signal("TERM", hd(held).os_pid)
        assert reasons(held) == [:worker_crashed]
      end

      test "and runs no call loses nothing under load" do
        pool = start_pool!([size: 2, max_queue: 1000] ++ @options)
        load = load(pool, 8)

        for _ <- 1..4 do
          # While the pool has not noticed that a worker ended, it counts as ready.
          os_pid =
            eventually(fn -> pool |> os_pids() |> Enum.shuffle() |> List.first() end, @patience)

          signal("TERM", os_pid)
          eventually(fn -> not alive?(os_pid) end, @patience)
          eventually(fn -> Snakepit.Pool.await_ready(pool, @patience) == :ok end, @patience)
        end

        assert finish(load) == [:ok]
      end
    end

    describe "#{way}: a pool that stops" do
      test "after :shutdown_timeout gives one reason to all kinds of calls", %{tmp_dir: dir} do
        pool =
          start_pool!([shutdown_timeout: 100, kill_grace: 100, max_concurrency: 3] ++ @options)

        held = [hold(pool, dir, "one"), hold_async(pool, dir), hold_last(@options, pool, dir)]
        :ok = stop_supervised({Snakepit.Pool, pool})
        assert reasons(held) == [:worker_crashed]
      end

      test "under load loses no call, and answers each caller" do
        for _ <- 1..3 do
          pool = start_pool!([size: 2, shutdown_timeout: @patience] ++ @options)
          load = load(pool, 16)
          :ok = stop_supervised({Snakepit.Pool, pool})
          assert Enum.uniq(Task.await_many(load, @patience)) == [:pool_stopped]
        end
      end

      test "because its supervisor is killed answers waiting callers at once", %{tmp_dir: dir} do
        pool = start_pool!([shutdown_timeout: @patience] ++ @options)
        held = hold(pool, dir, "one")
        waiting = for _ <- 1..4, do: call(pool, "pid", %{}, @endless)
        eventually(fn -> queued(pool) == 4 end, @patience)
        pool |> Process.whereis() |> Process.exit(:kill)

        for answer <- Task.await_many(waiting, @patience),
            do: assert({:error, %Error{reason: :pool_stopped}} = answer)

        free(held)
        eventually(fn -> not alive?(held.os_pid) end, @patience)
      end

      test "because its manager is killed answers waiting callers at once", %{tmp_dir: dir} do
        pool = start_pool!([shutdown_timeout: @patience] ++ @options)
        held = hold(pool, dir, "one")
        waiting = for _ <- 1..4, do: call(pool, "pid", %{}, @endless)
        eventually(fn -> queued(pool) == 4 end, @patience)
        {:ok, %{manager: manager}} = Registry.fetch(pool)
        Process.exit(manager, :kill)

        for answer <- Task.await_many(waiting, @patience),
            do: assert({:error, %Error{reason: :pool_stopped}} = answer)

        free(held)

        eventually(
          fn -> match?({:ok, _}, Snakepit.execute("ping", %{}, pool: pool)) end,
          @patience
        )
      end
    end

    test "#{way}: a worker whose process is killed leaves its pool, even without a call" do
      pool = start_pool!(@options)
      os_pid = os_pid(pool)
      [key] = keys(pool)
      [{_, worker, _, _}] = DynamicSupervisor.which_children(worker_supervisor(pool))
      Process.exit(worker, :kill)
      eventually(fn -> key not in keys(pool) end, @patience)
      assert {:ok, %{"pid" => next}} = Task.await(call(pool, "pid", %{}), @patience)
      assert next != os_pid
    end
  end

  test "calls sent ahead to a paused worker end when the pool stops",
       context do
    pool = start_pool!(shutdown_timeout: 100, kill_grace: 100, pipeline_budget: 60_000_000)
    # So that calls are sent ahead behind one that takes longer.
    free(hold(pool, context.tmp_dir, "short"))
    {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
    # It answers none of the calls behind the running one.
    held = hold(pool, context.tmp_dir, "one")
    suspend!(held.os_pid)
    calls = for _ <- 1..19, do: call(pool, "ping", %{}, @endless)
    eventually(fn -> queued(pool) + in_flight(pool) == 20 and in_flight(pool) > 1 end, @patience)
    :ok = stop_supervised({Snakepit.Pool, pool})
    assert {:error, %Error{reason: :worker_crashed}} = Task.await(held.task, @patience)
    reasons = for {:error, error} <- Task.await_many(calls, @patience), do: error.reason
    assert %{pool_stopped: 19} == Enum.frequencies(reasons)
  end

  test "a pool whose supervisor is killed is found once it is restarted, however soon" do
    name = :"killed#{System.unique_integer([:positive])}"
    args = [class: "trouble:Trouble", paths: ["test/support/python"]]
    options = [name: name, size: 1, adapter_args: args]
    spec = {Snakepit.Pool, options}
    start = [strategy: :one_for_one, max_restarts: 1_000_000]
    {:ok, supervisor} = Supervisor.start_link([spec], start)

    for n <- 1..30 do
      kill_next(supervisor)
      # At some moment during its start.
      Process.sleep(rem(n, 4))
      pid = kill_next(supervisor)
      eventually(fn -> child(supervisor) not in [nil, pid] end, @patience)

      eventually(
        fn -> match?({:ok, %{manager: manager}} when is_pid(manager), Registry.fetch(name)) end,
        @patience
      )

      {:ok, %{manager: manager}} = Registry.fetch(name)
      eventually(fn -> Process.whereis(Registry.manager_name(name)) == manager end, @patience)
    end

    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: name, queue_timeout: @patience)
    Supervisor.stop(supervisor)
    assert {:error, %Error{reason: :pool_stopped, message: message}} = Registry.fetch(name)
    assert message =~ "there is no pool"
  end

  test "a killed pool is waited for, a stopped or never started one is not" do
    name = :"back#{System.unique_integer([:positive])}"
    args = [class: "trouble:Trouble", paths: ["test/support/python"]]
    {Snakepit.Pool, options} = spec = {Snakepit.Pool, [name: name, size: 1, adapter_args: args]}
    assert {:error, %Error{reason: :pool_stopped, message: advice}} = ready(name)
    assert advice =~ "start one with"
    {:ok, supervisor} = Supervisor.start_link([spec], strategy: :one_for_one, max_restarts: 1000)
    assert :ok = ready(name)

    kills = [
      fn -> name |> Process.whereis() |> Process.exit(:kill) end,
      fn -> manager(name) |> Process.exit(:kill) end,
      fn -> name |> worker_supervisor() |> Process.exit(:kill) end
    ]

    for kill <- kills do
      monitor = Process.monitor(manager(name))
      kill.()
      assert_receive {:DOWN, ^monitor, :process, _manager, _reason}, @patience
      assert :ok = ready(name)
    end

    # It does not come back here: it has no supervisor.
    killed = :"#{name}_killed"
    {:ok, pid} = Snakepit.Pool.start_link(Keyword.put(options, :name, killed))
    Process.unlink(pid)
    Process.exit(pid, :kill)
    eventually(fn -> Process.whereis(Registry.manager_name(killed)) == nil end, @patience)
    assert {:error, %Error{reason: :pool_stopped}} = Snakepit.Pool.await_ready(killed, 100)
    Supervisor.stop(supervisor)
    assert {:error, %Error{reason: :pool_stopped, message: ^advice}} = ready(name)
    # Another process with that name is not a pool.
    Process.register(self(), name)
    assert {:error, %Error{reason: :pool_stopped, message: ^advice}} = ready(name)
  end

  defp ready(name), do: Snakepit.Pool.await_ready(name, :infinity)

  defp manager(name) do
    {:ok, %{manager: manager}} = Registry.fetch(name)
    manager
  end

  test "a pool that falls back redirects its callers, however late they come" do
    pool = start_pool!()
    native = native(pool)
    Native.pool_fell_back(native, "moved")
    Native.pool_close(native)

    assert {:error, %Error{reason: :grpc_unavailable, message: "moved"}} =
             Snakepit.execute("ping", %{}, pool: pool)
  end

  defp kill_next(supervisor) do
    eventually(fn -> is_pid(child(supervisor)) end, @patience)
    pid = child(supervisor)
    if is_pid(pid), do: Process.exit(pid, :kill)
    pid
  end

  defp child(supervisor) do
    [{_id, pid, _type, _modules}] = Supervisor.which_children(supervisor)
    if is_pid(pid), do: pid
  end

  defp worker_supervisor(pool) do
    Enum.find_value(Supervisor.which_children(pool), fn
      {Snakepit.Pool.WorkerSupervisor, pid, _type, _modules} -> pid
      _ -> nil
    end)
  end

  # Endless calls of all kinds that the pool supports; returns once there were some.
  defp load(pool, callers) do
    {:ok, %{transport: transport}} = Registry.fetch(pool)
    streams = transport == Snakepit.GRPC.Transport
    count = :counters.new(1, [])
    tasks = for n <- 1..callers, do: Task.async(fn -> load(pool, n, streams, count) end)
    eventually(fn -> :counters.get(count, 1) > 10 * callers end, @patience)
    tasks
  end

  defp load(pool, n, streams, count) do
    :counters.add(count, 1, 1)
    options = [pool: pool] ++ @endless

    answer =
      case rem(n, 4) do
        0 when streams -> Snakepit.execute_stream("counted", %{count: 20}, & &1, options)
        1 -> Snakepit.execute("sleep", %{seconds: 0.005}, options)
        2 -> Snakepit.execute_in_session("s#{n}", "tally", %{}, options)
        _ -> Snakepit.execute("add", %{a: 1, b: n}, options)
      end

    case answer do
      {:error, %{reason: :pool_stopped}} -> :pool_stopped
      # A session is lost with its worker.
      {:error, %{reason: :session_lost}} when rem(n, 4) == 2 -> load(pool, n, streams, count)
      {:error, error} -> error
      _ -> if stop?(), do: :ok, else: load(pool, n, streams, count)
    end
  end

  defp stop? do
    receive do
      :stop -> true
    after
      0 -> false
    end
  end

  defp finish(load) do
    for task <- load, do: send(task.pid, :stop)
    load |> Task.await_many(@patience) |> Enum.uniq()
  end

  defp call(pool, command, args, options \\ [timeout: @patience, queue_timeout: @patience]),
    do: Task.async(fn -> Snakepit.execute(command, args, [pool: pool] ++ options) end)

  # A call that occupies a place until it is freed; a stream if streams are supported.
  defp hold(pool, dir, name) do
    args = %{started: Path.join(dir, name), until: Path.join(dir, name <> ".until")}
    held(call(pool, "hold", args, @endless), args)
  end

  defp hold_async(pool, dir) do
    args = %{started: Path.join(dir, "async")}
    held(call(pool, "hold_async", args, @endless), Map.put(args, :until, nil))
  end

  # The reasons why they ended, each once.
  defp reasons(held) do
    held
    |> Enum.map(&Task.await(&1.task, @patience))
    |> Enum.map(fn {:error, error} -> error.reason end)
    |> Enum.uniq()
  end

  defp hold_last(options, pool, dir) do
    if options[:adapter] do
      hold(pool, dir, "last")
    else
      args = %{started: Path.join(dir, "stream"), until: Path.join(dir, "stream.until")}
      options = [pool: pool] ++ @endless

      held(
        Task.async(fn ->
          with :ok <- Snakepit.execute_stream("hold_stream", args, fn _chunk -> nil end, options),
               do: {:ok, nil}
        end),
        args
      )
    end
  end

  defp held(task, args) do
    eventually(fn -> File.exists?(args.started) end, @patience)
    %{task: task, until: args.until, os_pid: String.to_integer(File.read!(args.started))}
  end

  defp free(held) do
    File.touch!(held.until)
    assert {:ok, _} = Task.await(held.task, @patience)
  end

  defp states(pool) do
    {:ok, workers} = Snakepit.list_workers(pool)
    Enum.map(workers, & &1.state)
  end

  defp queued(pool), do: pool |> native() |> Native.pool_snapshot() |> elem(0)

  defp keys(pool) do
    {_queued, workers} = pool |> native() |> Native.pool_snapshot()
    Enum.map(workers, &elem(&1, 0))
  end

  defp in_flight(pool) do
    {_queued, workers} = pool |> native() |> Native.pool_snapshot()
    workers |> Enum.map(&elem(&1, 1)) |> Enum.sum()
  end
end
