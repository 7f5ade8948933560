defmodule Snakepit.ReloadTest do
  # Pools replace their workers when Python code changes.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools, only: [ways: 0, os_pids: 1, eventually: 1]
  import Snakepit.Test.Code

  alias Snakepit.Error

  @moduletag :tmp_dir
  @patience 60_000

  setup do
    me = self()
    event = [:snakepit, :pool, :restarted]
    :ok = :telemetry.attach(me, event, &__MODULE__.tell/4, me)
    on_exit(fn -> :telemetry.detach(me) end)
  end

  def tell(_event, measurements, metadata, pid),
    do: send(pid, {metadata.pool, measurements, metadata})

  for {way, options} <- ways() do
    @options options

    test "#{way}: a change replaces the workers, and no call fails", %{tmp_dir: dir} do
      write!(dir, 1)
      pool = start_pool!(dir, [reload: true, size: 2, shutdown_timeout: @patience] ++ @options)
      before = os_pids(pool)
      load = for _ <- 1..3, do: Task.async(fn -> repeat(pool) end)

      log =
        capture_log(fn ->
          write!(dir, 2)
          assert {%{replaced: 2, duration: duration}, %{error: nil, why: why}} = restarted(pool)
          assert duration > 0
          assert why =~ "app_code.py has changed"
        end)

      for task <- load, do: send(task.pid, :stop)
      assert load |> Task.await_many(@patience) |> List.flatten() == []
      for _ <- 1..10, do: assert({2, _pid} = version(pool))
      assert os_pids(pool) -- before == os_pids(pool)

      assert log =~
               ~r/the pool #{inspect(pool)} has replaced its 2 workers: .*app_code.py has changed/
    end

    test "#{way}: code that cannot be imported keeps the workers, and is reported once", %{
      tmp_dir: dir
    } do
      write!(dir, 1)
      pool = start_pool!(dir, [reload: true, size: 2] ++ @options)
      before = Enum.sort(os_pids(pool))

      log =
        capture_log(fn ->
          write!(dir, 2, "def broken(:")
          assert {%{replaced: 0}, %{error: %Error{} = error}} = restarted(pool)
          assert error.message =~ "SyntaxError"
          assert {1, _pid} = version(pool)
          assert Enum.sort(os_pids(pool)) == before
          # Writing the same content is not a change.
          write!(dir, 2, "def broken(:")
          write!(dir, 2)
          assert {%{replaced: 2}, %{error: nil}} = restarted(pool)
        end)

      assert {2, _pid} = version(pool)
      assert [_, told] = String.split(log, "the pool #{inspect(pool)} keeps running its old code")
      assert told =~ "SyntaxError"
      refute_received {^pool, _measurements, _metadata}
    end
  end

  test "workers that could not start are started once the code is right", %{tmp_dir: dir} do
    write!(dir, 1, "def broken(:")
    backoff = {900_000, 900_000}
    pool = start_pool_unready!(dir, reload: true, size: 2, restart_backoff: backoff)

    eventually(fn ->
      match?({:ok, [%{state: :waiting}, %{state: :waiting}]}, Snakepit.list_workers(pool))
    end)

    write!(dir, 2)
    assert {%{replaced: 2}, %{error: nil}} = restarted(pool)
    assert {2, _pid} = version(pool)
  end

  test "a change during a replacement replaces the workers once more", %{tmp_dir: dir} do
    write!(dir, 1)
    pool = start_pool!(dir, reload: true)
    hold_import!(dir)
    write!(dir, 2)
    eventually(fn -> length(importing(dir)) == 2 end)
    write!(dir, 3)
    open_import!(dir)
    assert {_measurements, %{error: nil}} = restarted(pool)
    assert {_measurements, %{error: nil}} = restarted(pool)
    assert {3, _pid} = version(pool)
  end

  test "a pool that is stopped during a replacement stops", %{tmp_dir: dir} do
    write!(dir, 1)
    pool = start_pool!(dir, reload: true)
    hold_import!(dir)
    write!(dir, 2)
    eventually(fn -> length(importing(dir)) == 2 end)
    assert stop_supervised({Snakepit.Pool, pool}) == :ok
    assert eventually(fn -> os_pids(pool) == [] end)
  end

  test "it continues after the pool was restarted", %{tmp_dir: dir} do
    write!(dir, 1)
    pool = start_pool!(dir, reload: true)
    {:ok, %{manager: manager}} = Snakepit.Pool.Registry.fetch(pool)
    Process.exit(manager, :kill)
    # Until then calls may still find the old workers.
    eventually(fn ->
      case Snakepit.Pool.Registry.fetch(pool) do
        {:ok, %{manager: other}} -> other != manager
        {:error, _stopped} -> false
      end
    end)

    write!(dir, 2)
    assert {_measurements, %{error: nil}} = restarted(pool)
    assert {2, _pid} = version(pool)
  end

  test "paths are the workers' paths: from :root, or within an application", %{tmp_dir: dir} do
    File.mkdir!(Path.join(dir, "python"))
    write!(Path.join(dir, "python"), 1)
    args = [class: "app_code:Code", paths: ["python", {:snakepit, "priv/python"}]]
    pool = start_pool!(dir, reload: true, root: dir, adapter_args: args)
    write!(Path.join(dir, "python"), 2)
    assert {_measurements, %{error: nil, why: "python/app_code.py has changed"}} = restarted(pool)
    assert {2, _pid} = version(pool)
  end

  test "without the option nothing is watched", %{tmp_dir: dir} do
    write!(dir, 1)
    pool = start_pool!(dir, [])
    children = pool |> Process.whereis() |> Supervisor.which_children()
    refute List.keymember?(children, Snakepit.Pool.Reloader, 0)
  end

  test "an error says that there is nothing to watch" do
    log =
      capture_log(fn ->
        pool = Snakepit.Test.Pools.start_pool!(reload: true, adapter_args: [])
        assert {:ok, _pong} = Snakepit.execute("ping", %{}, pool: pool)
      end)

    assert log =~ "reloads nothing"
  end

  defp restarted(pool) do
    assert_receive {^pool, measurements, metadata}, @patience
    {measurements, metadata}
  end
end
