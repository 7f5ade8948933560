defmodule Snakepit.RestartTest do
  # Workers are replaced one after another while calls run.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, only: [ways: 0, os_pids: 1, alive?: 1, eventually: 1, await: 1]
  import Snakepit.Test.Code

  alias Snakepit.Error

  @moduletag :tmp_dir
  @patience 60_000

  for {way, options} <- ways() do
    @options options

    describe "#{way}: restart/2" do
      test "replaces every worker by one with the current code, without a failed call", %{
        tmp_dir: dir
      } do
        write!(dir, 1)
        pool = start_pool!(dir, [size: 2, shutdown_timeout: @patience] ++ @options)
        before = os_pids(pool)
        load = for _ <- 1..6, do: Task.async(fn -> repeat(pool) end)
        write!(dir, 2)
        assert Snakepit.restart(pool) == :ok
        for task <- load, do: send(task.pid, :stop)
        assert load |> Task.await_many(@patience) |> List.flatten() == []
        for _ <- 1..10, do: assert({2, _pid} = version(pool))
        assert length(before) == 2 and length(os_pids(pool)) == 2
        refute Enum.any?(before, &alive?/1)

        assert {:ok, %{restarts: 0, ready: 2}} = Snakepit.stats(pool)
        assert {:ok, %{healthy: true, workers: [_, _]}} = Snakepit.health(pool)
      end

      test "lets running calls and streams finish", %{tmp_dir: dir} do
        write!(dir, 1)
        options = [max_concurrency: 3, shutdown_timeout: @patience] ++ @options
        pool = start_pool!(dir, options)
        {1, old} = version(pool)
        call = hold_call(pool, dir)
        # Over stdin and stdout there are no streams.
        stream = unless unquote(way == :Stdio), do: hold_stream(pool, dir)
        restart = Task.async(fn -> Snakepit.restart(pool) end)

        # The new worker serves the others while the old one has its two.
        eventually(fn -> elem(version(pool), 1) != old end)
        assert {:ok, workers} = Snakepit.list_workers(pool)
        assert workers |> Enum.map(& &1.state) |> Enum.sort() == [:draining, :ready]
        assert {:ok, %{healthy: true, ready: 1, size: 1}} = Snakepit.health(pool)
        refute Task.yield(restart, 0)

        assert %{"pid" => ^old} = end_call(call)
        if stream, do: assert(end_stream(stream) == for(n <- 0..99, do: {n, old}))
        assert await(restart) == :ok
        refute alive?(old)
      end

      test "loses sessions with their workers, and reports it once", %{tmp_dir: dir} do
        write!(dir, 1)
        pool = start_pool!(dir, @options)
        turns = fn -> Snakepit.execute_in_session("s", "turns", %{}, pool: pool) end
        assert {:ok, %{"turns" => 1}} = turns.()
        assert {:ok, %{"turns" => 2}} = turns.()
        assert Snakepit.restart(pool) == :ok
        assert {:error, %Error{reason: :session_lost}} = turns.()
        assert {:ok, %{"turns" => 1}} = turns.()
      end

      test "ends if a worker does not start, and says why", %{tmp_dir: dir} do
        write!(dir, 1)
        pool = start_pool!(dir, [size: 2] ++ @options)
        before = os_pids(pool)
        write!(dir, 2, "def broken(:")
        assert {:error, %Error{reason: :worker_start_failed} = error} = Snakepit.restart(pool)
        assert error.pool == pool
        assert error.message =~ "0 of 2"
        assert error.message =~ "SyntaxError"
        assert error.message =~ "def broken(:"
        assert Enum.sort(os_pids(pool)) == Enum.sort(before)
        assert {1, _pid} = version(pool)
        assert {:ok, %{healthy: true}} = Snakepit.health(pool)

        write!(dir, 2)
        assert Snakepit.restart(pool) == :ok
        assert {2, _pid} = version(pool)
      end

      test "continues if the worker being replaced dies", %{tmp_dir: dir} do
        write!(dir, 1)
        pool = start_pool!(dir, @options)
        {old, restart} = restart_held(pool, dir)
        kill(old)
        # Until the pool has noticed the death, a call may go to the dead worker.
        eventually(fn -> states(pool) == [:starting] end)
        waiting = Task.async(fn -> version(pool) end)
        open_import!(dir)
        assert await(restart) == :ok
        assert {2, _pid} = await(waiting)
        assert length(os_pids(pool)) == 1
      end

      test "ends if the new worker dies, and keeps the old one", %{tmp_dir: dir} do
        write!(dir, 1)
        pool = start_pool!(dir, @options)
        {old, restart} = restart_held(pool, dir)
        [new] = os_pids(pool) -- [old]
        kill(new)
        assert {:error, %Error{reason: :worker_start_failed, message: message}} = await(restart)
        assert message =~ "SIGKILL"
        assert version(pool) == {1, old}
      end

      test "ends with its pool", %{tmp_dir: dir} do
        write!(dir, 1)
        pool = start_pool!(dir, @options)
        {_old, restart} = restart_held(pool, dir)
        both = os_pids(pool)
        assert length(both) == 2
        :ok = stop_supervised({Snakepit.Pool, pool})
        assert {:error, %Error{reason: :pool_stopped}} = await(restart)
        eventually(fn -> not Enum.any?(both, &alive?/1) end)
      end

      test "replaces workers that are still starting", %{tmp_dir: dir} do
        write!(dir, 1)
        hold_import!(dir)
        pool = start_pool_unready!(dir, [size: 2] ++ @options)
        eventually(fn -> length(importing(dir)) == 2 end)
        write!(dir, 2)
        restart = Task.async(fn -> Snakepit.restart(pool) end)
        eventually(fn -> length(importing(dir)) == 3 end)
        open_import!(dir)
        assert await(restart) == :ok
        assert Snakepit.Test.Pools.await_ready(pool) == :ok
        for _ <- 1..4, do: assert({2, _pid} = version(pool))
        eventually(fn -> length(os_pids(pool)) == 2 end)
      end

      test "starts workers at once that wait for their next attempt", %{tmp_dir: dir} do
        write!(dir, 1, "def broken(:")
        options = [size: 2, restart_backoff: {900_000, 900_000}] ++ @options
        pool = start_pool_unready!(dir, options)
        eventually(fn -> Enum.all?(states(pool), &(&1 == :waiting)) end)
        write!(dir, 2)
        assert Snakepit.restart(pool) == :ok
        assert {2, _pid} = version(pool)
        assert states(pool) == [:ready, :ready]
      end
    end
  end

  test "a restart requested during another one runs after it", %{tmp_dir: dir} do
    write!(dir, 1)
    pool = start_pool!(dir, [])
    {_old, first} = restart_held(pool, dir)
    # The new worker has read the old code.
    write!(dir, 3)
    others = for _ <- 1..3, do: Task.async(fn -> Snakepit.restart(pool) end)
    {:ok, %{manager: manager}} = Snakepit.Pool.Registry.fetch(pool)
    eventually(fn -> length(:sys.get_state(manager).restarts_wanted) == 3 end)
    open_import!(dir)
    assert Task.await_many([first | others], @patience) == [:ok, :ok, :ok, :ok]
    assert {3, _pid} = version(pool)
    # Together they needed one more port.
    assert length(importing(dir)) == 3
  end

  test "a restart continues past its timeout", %{tmp_dir: dir} do
    write!(dir, 1)
    pool = start_pool!(dir, [])
    hold_import!(dir)
    write!(dir, 2)
    assert {:error, %Error{reason: :timeout, pool: ^pool}} = Snakepit.restart(pool, timeout: 1)
    open_import!(dir)
    eventually(fn -> match?({2, _pid}, version(pool)) end)
  end

  test "a restart needs a spare port in the range for the new worker", %{tmp_dir: dir} do
    write!(dir, 1)
    port = free_ports()
    tcp = [transport: :tcp, base_port: port, size: 2]
    pool = start_pool!(dir, [port_range: 2] ++ tcp)
    assert {:error, %Error{reason: :invalid_options, message: message}} = Snakepit.restart(pool)
    assert message =~ ":port_range must be 3 or more"
    :ok = stop_supervised({Snakepit.Pool, pool})

    options = [name: pool, adapter_args: [paths: [dir]], port_range: 2, reload: true] ++ tcp
    assert {:error, %Error{reason: :invalid_options} = error} = Snakepit.Pool.start_link(options)
    assert error.message =~ ~r/with reload: true the replacement of a worker .* must be 3 or more/

    pool = start_pool!(dir, [port_range: 3] ++ tcp)
    write!(dir, 2)
    assert Snakepit.restart(pool) == :ok
    assert {2, _pid} = version(pool)
  end

  test "restart/2 refuses a pool that does not exist and an unknown option" do
    assert {:error, %Error{reason: :pool_stopped}} = Snakepit.restart(:no_pool)
    assert {:error, %Error{reason: :invalid_options}} = Snakepit.restart(:no_pool, timeout: 0)
    assert {:error, %Error{reason: :invalid_options}} = Snakepit.restart(:no_pool, times: 2)
  end

  # A restart whose new worker, of version 2, imports the code for as long as the test wants.
  defp restart_held(pool, dir) do
    {_version, old} = version(pool)
    hold_import!(dir)
    write!(dir, 2)
    restart = Task.async(fn -> Snakepit.restart(pool) end)
    eventually(fn -> length(importing(dir)) == 2 end)
    {old, restart}
  end

  defp hold_call(pool, dir) do
    path = Path.join(dir, "call")
    File.touch!(path)
    task = Task.async(fn -> Snakepit.execute("wait_while", %{name: "call"}, pool: pool) end)
    eventually(fn -> File.exists?(path <> "-started") end)
    {path, task}
  end

  defp end_call({path, task}) do
    File.rm!(path)
    assert {:ok, result} = await(task)
    result
  end

  defp hold_stream(pool, dir) do
    path = Path.join(dir, "stream")
    File.touch!(path)
    me = self()

    task =
      Task.async(fn ->
        count = fn %{"n" => n, "pid" => pid} -> send(me, {self(), n, pid}) end
        Snakepit.execute_stream("count", %{name: "stream"}, count, pool: pool)
      end)

    %{pid: pid} = task
    assert_receive {^pid, 0, worker}, @patience
    {path, worker, task}
  end

  defp end_stream({path, worker, %{pid: pid} = task}) do
    File.rm!(path)
    assert await(task) == :ok
    # All of them have been requested by now.
    rest = for n <- 1..99, do: receive(do: ({^pid, ^n, worker} -> {n, worker}))
    [{0, worker} | rest]
  end

  defp states(pool) do
    {:ok, workers} = Snakepit.list_workers(pool)
    Enum.map(workers, & &1.state)
  end

  defp kill(os_pid), do: {_, 0} = System.cmd("kill", ["-KILL", to_string(os_pid)])

  # The first of three adjacent free ports.
  defp free_ports do
    first = Enum.random(20_000..30_000)
    if Enum.all?(first..(first + 2), &free?/1), do: first, else: free_ports()
  end

  defp free?(port) do
    with {:ok, socket} <- :gen_tcp.listen(port, ip: {127, 0, 0, 1}) do
      :gen_tcp.close(socket)
      true
    else
      _taken -> false
    end
  end
end
