defmodule Snakepit.HealthTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Error

  @moduletag :tmp_dir

  defmodule Refusing do
    use Snakepit.Test.ServerAdapter, script: "refusing_server.py"
  end

  defp resident_bytes(os_pid) do
    [_size, resident | _] = String.split(File.read!("/proc/#{os_pid}/statm"))
    String.to_integer(resident) * 4096
  end

  defp cpu_ms(os_pid) do
    [_name, fields] = String.split(File.read!("/proc/#{os_pid}/stat"), ") ")
    [user, system] = fields |> String.split() |> Enum.slice(11, 2)
    (String.to_integer(user) + String.to_integer(system)) * 10
  end

  test "a worker that refuses to say whether a cancelled call has ended is asked again" do
    pool = start_server_pool!(Refusing, kill_grace: 60_000)
    before = os_pid_of(pool)

    assert {:error, %Error{reason: :timeout}} =
             Snakepit.execute("silent", %{}, pool: pool, timeout: 50)

    eventually(fn ->
      match?({:ok, [%{in_flight: 0, state: :ready}]}, Snakepit.list_workers(pool))
    end)

    assert os_pid_of(pool) == before
  end

  defp os_pid_of(pool) do
    {:ok, [%{os_pid: os_pid}]} = Snakepit.list_workers(pool)
    os_pid
  end

  for adapter <- [Snakepit.Adapters.GRPCPython, Snakepit.Adapters.GenericPythonV2] do
    describe "with #{inspect(adapter)}" do
      test "workers report correct figures" do
        pool = start_pool!(adapter: unquote(adapter))
        for n <- 1..3, do: {:ok, _} = Snakepit.execute("add", %{a: n}, pool: pool)
        {:error, _} = Snakepit.execute("fail", %{message: "no"}, pool: pool)
        {:ok, _} = Snakepit.execute_in_session("s", "tally", %{}, pool: pool)

        [%{os_pid: os_pid}] = workers_that_answered(pool)
        cpu_before = cpu_ms(os_pid)
        [worker] = workers_that_answered(pool)
        id = "#{inspect(pool)}/1"
        assert %{id: ^id, state: :ready, error: nil, in_flight: 0} = worker
        assert %{requests: 5, errors: 1, sessions: 1} = worker
        assert worker.os_pid == os_pid(pool)

        assert_in_delta worker.memory_bytes,
                        resident_bytes(worker.os_pid),
                        worker.memory_bytes / 2

        assert worker.cpu_percent > 0
        # The start of the interpreter is not counted.
        assert worker.cpu_percent * worker.uptime_ms / 100 < cpu_before

        assert {:ok,
                %{requests: 6, errors: 1, sessions: 1, ready: 1, queued: 0, restarts: 0} = stats} =
                 eventually_told(fn -> Snakepit.stats(pool) end, &(&1.memory_bytes > 0))

        assert stats.adapter == unquote(adapter) and stats.memory_bytes > 1_000_000
        [later] = workers_that_answered(pool)
        assert later.uptime_ms >= worker.uptime_ms and worker.uptime_ms > 0
      end

      test "no query waits behind calls", %{tmp_dir: dir} do
        pool = start_pool!(adapter: unquote(adapter), size: 2)
        args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
        options = [pool: pool, session_id: "s"]
        held = Task.async(fn -> Snakepit.execute("hold_session", args, options) end)
        eventually(fn -> File.exists?(args.started) end)
        waiting = Task.async(fn -> Snakepit.execute("tally", %{}, options) end)
        eventually(fn -> match?({:ok, %{queued: 1, in_flight: 1}}, Snakepit.stats(pool)) end)

        assert {:ok, %{healthy: true, ready: 2, size: 2, workers: [%{state: :ready}, _]}} =
                 eventually_told(fn -> Snakepit.health(pool) end, & &1.healthy)

        assert [_, _] = workers = workers_that_answered(pool)
        assert Enum.sort(Enum.map(workers, & &1.in_flight)) == [0, 1]
        File.touch!(args.until)
        assert [{:ok, _}, {:ok, _}] = await_many([held, waiting])
      end
    end
  end

  test "a worker that does not answer is replaced, even if no call waits for it" do
    log =
      capture_log(fn ->
        pool = start_pool!(health_interval: 200, health_misses: 3)
        before = os_pid(pool)
        signal("STOP", before)
        eventually(fn -> not alive?(before) end)
        # A worker that is only slow may be replaced as well, within the limits of this test.
        eventually(fn ->
          match?(
            {:ok, %{"pid" => pid}} when pid != before,
            Snakepit.execute("pid", %{}, pool: pool)
          )
        end)

        assert {:ok, %{restarts: restarts}} = Snakepit.stats(pool)
        assert restarts > 0
      end)

    assert log =~ "missed a health check" and log =~ ":health_misses"
  end

  test "a worker whose command holds Python's lock answers, and reports it", %{tmp_dir: dir} do
    pool = start_pool!(max_concurrency: 2, shutdown_timeout: 1, kill_grace: 1)
    busy = start_call(pool, "hold", dir, until: Path.join(dir, "until"))
    # On a slow machine no thread may have run for a while.
    eventually(fn ->
      match?([%{python_stuck_ms: ms}] when ms < 1_000, workers_that_answered(pool))
    end)

    stuck = start_call(pool, "sleep_holding_the_gil", dir)

    eventually(fn ->
      [worker] = workers_that_answered(pool)
      worker.state == :ready and worker.in_flight == 2 and worker.python_stuck_ms > 1_000
    end)

    assert {:ok, %{healthy: true, workers: [%{python_stuck_ms: ms}]}} =
             eventually_told(fn -> Snakepit.health(pool) end, & &1.healthy)

    assert ms > 1_000
    stop_supervised!({Snakepit.Pool, pool})
    for task <- [busy, stuck], do: assert({:error, %Error{}} = await(task))
  end

  # What a pool reports once `condition` holds; a worker that is slow to answer reports nil.
  defp eventually_told(ask, condition) do
    eventually(fn ->
      {:ok, told} = ask.()
      condition.(told) && {:ok, told}
    end)
  end

  defp workers_that_answered(pool) do
    ask = fn -> Snakepit.list_workers(pool) end
    {:ok, workers} = eventually_told(ask, fn workers -> Enum.all?(workers, & &1.uptime_ms) end)
    workers
  end

  defp start_call(pool, command, dir, args \\ []) do
    args = Map.new([started: Path.join(dir, command)] ++ args)
    options = [pool: pool, timeout: 600_000]
    task = Task.async(fn -> Snakepit.execute(command, args, options) end)
    eventually(fn -> File.exists?(args.started) end)
    task
  end

  test "a pool describes itself" do
    pool = start_pool!(max_concurrency: 3)

    assert {:ok, %{pool: ^pool, size: 1, max_concurrency: 3} = info} =
             eventually_told(fn -> Snakepit.info(pool) end, & &1.commands)

    assert %{worker_type: "python", version: "0.1.0", system: %{"python" => _}} = info
    assert info.commands["add"] =~ "add(a: int, b: int = 0)"
  end

  test "a worker that does not start says why" do
    pool = start_pool_unready!(adapter_args: [class: "nowhere:Class"])
    {:error, _} = await_ready(pool)

    eventually(fn ->
      {:ok, [worker]} = Snakepit.list_workers(pool)
      match?(%{state: :waiting, os_pid: nil, requests: nil, in_flight: 0}, worker)
    end)

    assert {:ok, %{healthy: false, ready: 0, workers: [%{error: error}]}} = Snakepit.health(pool)
    assert error =~ "nowhere"
    assert {:ok, %{ready: 0, requests: 0}} = Snakepit.stats(pool)
    assert {:ok, %{commands: nil}} = Snakepit.info(pool)
  end

  test "a pool that does not exist is an error" do
    for ask <- [:health, :info, :stats, :list_workers] do
      assert {:error, %Error{reason: :pool_stopped}} = apply(Snakepit, ask, [:nowhere])
    end
  end
end
