defmodule Snakepit.SessionsTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.Native

  @moduletag :tmp_dir

  defp tally(pool, id, options \\ []),
    do: Snakepit.execute_in_session(id, "tally", %{}, [pool: pool] ++ options)

  # Keeps the session's worker busy until `free/1`; returns once the command runs.
  defp occupy(pool, id, dir) do
    files = %{started: Path.join(dir, "started-#{id}"), until: Path.join(dir, "until-#{id}")}

    task =
      Task.async(fn -> Snakepit.execute_in_session(id, "hold_session", files, pool: pool) end)

    eventually(fn -> File.exists?(files.started) end)
    {task, files}
  end

  defp free({task, files}) do
    File.touch!(files.until)
    await(task)
  end

  defp worker_keys(pool) do
    {:ok, %{native: native}} = Snakepit.Pool.Registry.fetch(pool)
    {_queued, workers} = Native.pool_snapshot(native)
    workers |> Enum.map(&elem(&1, 0)) |> Enum.sort()
  end

  # Returns once another worker has taken its place.
  defp kill(pool, os_pid) do
    before = worker_keys(pool)
    signal("KILL", os_pid)

    eventually(fn ->
      now = worker_keys(pool)
      now != before and length(now) == length(before)
    end)
  end

  test "no count is lost or mixed up, and a dead worker loses exactly its sessions, once each" do
    pool = start_pool!(size: 4)
    ids = for n <- 1..200, do: "session #{n}"

    results =
      for(_ <- 1..3, id <- ids, do: id)
      |> Task.async_stream(&{&1, tally(pool, &1)}, max_concurrency: 32, timeout: :infinity)
      |> Enum.group_by(fn {:ok, {id, _}} -> id end, fn {:ok, {_, {:ok, result}}} -> result end)

    for {_id, told} <- results do
      assert Enum.sort(Enum.map(told, & &1["count"])) == [1, 2, 3]
      assert [_] = Enum.uniq(Enum.map(told, & &1["pid"]))
    end

    homes = Map.new(results, fn {id, [%{"pid" => pid} | _]} -> {id, pid} end)
    assert homes |> Map.values() |> Enum.uniq() |> length() == 4
    victim = homes["session 1"]
    kill(pool, victim)

    for id <- ids do
      if homes[id] == victim do
        assert {:error, %Error{reason: :session_lost, pool: ^pool}} = tally(pool, id)
        assert {:ok, %{"count" => 1}} = tally(pool, id)
      else
        assert {:ok, %{"count" => 4}} = tally(pool, id)
      end
    end
  end

  test "a stream is a call in its session" do
    pool = start_pool!(size: 2)
    {:ok, %{"pid" => pid}} = tally(pool, "s")
    me = self()
    args = %{to: 2}
    options = [pool: pool]
    :ok = Snakepit.execute_in_session_stream("s", "tally_stream", args, &send(me, &1), options)
    assert_received %{"count" => 2, "pid" => ^pid}
    assert_received %{"count" => 3, "pid" => ^pid}

    assert [%{"count" => 4}, _] =
             "tally_stream"
             |> Snakepit.stream(args, [session_id: "s"] ++ options)
             |> Enum.to_list()
  end

  test "a strict call waits for its worker while others are served", %{tmp_dir: dir} do
    pool = start_pool!(size: 2)
    {:ok, %{"pid" => home}} = tally(pool, "s")
    held = occupy(pool, "s", dir)
    waiting = Task.async(fn -> tally(pool, "s") end)
    assert {:error, %Error{reason: :queue_timeout}} = tally(pool, "s", queue_timeout: 50)
    assert {:ok, %{"pid" => other}} = tally(pool, "t")
    assert other != home
    assert Task.yield(waiting, 0) == nil
    assert {:ok, %{"count" => 2}} = free(held)
    assert {:ok, %{"count" => 3, "pid" => ^home}} = await(waiting)
  end

  test "a call that prefers its worker takes another one, where the session begins anew",
       %{tmp_dir: dir} do
    pool = start_pool!(size: 2)
    prefer = [affinity: :prefer]
    {:ok, %{"pid" => home}} = tally(pool, "s", prefer)
    assert {:ok, %{"count" => 2, "pid" => ^home}} = tally(pool, "s", prefer)
    held = occupy(pool, "s", dir)
    assert {:ok, %{"count" => 1, "pid" => other}} = tally(pool, "s", prefer)
    assert other != home
    free(held)
    assert {:ok, %{"count" => 2, "pid" => ^other}} = tally(pool, "s", prefer)
  end

  test "a session that was ended begins anew, and Python keeps nothing of it" do
    pool = start_pool!()
    {:ok, %{"count" => 1}} = tally(pool, "s")
    assert :ok = Snakepit.end_session("s", pool: pool)

    kept? = fn ->
      Snakepit.execute("sessions_kept", %{}, pool: pool) != {:ok, %{"result" => 0}}
    end

    eventually(fn -> not kept?.() end)
    assert {:ok, %{"count" => 1}} = tally(pool, "s")
    assert :ok = Snakepit.end_session("unknown", pool: pool)
  end

  test "beyond the bound the least recently used session begins anew, and Python keeps no more sessions" do
    pool = start_pool!(max_sessions: 2)
    for id <- ~w(one two one three one), do: assert({:ok, _} = tally(pool, id))
    assert {:ok, %{"count" => 4}} = tally(pool, "one")
    assert {:ok, %{"count" => 1}} = tally(pool, "two")

    eventually(fn ->
      {:ok, %{"result" => kept}} = Snakepit.execute("sessions_kept", %{}, pool: pool)
      kept <= 2
    end)
  end

  test "beyond the bound a session for which a call waits is kept", %{tmp_dir: dir} do
    pool = start_pool!(max_sessions: 1)
    {:ok, %{"count" => 1}} = tally(pool, "s")
    hold = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
    held = Task.async(fn -> Snakepit.execute("hold", hold, pool: pool) end)
    eventually(fn -> File.exists?(hold.started) end)
    {:ok, %{native: native}} = Snakepit.Pool.Registry.fetch(pool)
    waiting = Task.async(fn -> tally(pool, "s") end)
    eventually(fn -> match?({1, _}, Native.pool_snapshot(native)) end)
    first = Task.async(fn -> tally(pool, "other", priority: :high) end)
    eventually(fn -> match?({2, _}, Native.pool_snapshot(native)) end)
    File.touch!(hold.until)
    assert {:ok, %{"count" => 1}} = await(first)
    assert {:ok, %{"count" => 2}} = await(waiting)
    await(held)
  end

  test "an unused session expires" do
    pool = start_pool!(session_ttl: 1)
    {:ok, %{"count" => 1}} = tally(pool, "s")
    eventually(fn -> match?({:ok, %{"count" => 1}}, tally(pool, "s")) end)
  end

  test "a call that waits for a worker that dies gets :session_lost", %{tmp_dir: dir} do
    pool = start_pool!(size: 2)
    {:ok, %{"pid" => home}} = tally(pool, "s")
    {task, _files} = occupy(pool, "s", dir)
    waiting = Task.async(fn -> tally(pool, "s") end)
    {:ok, %{native: native}} = Snakepit.Pool.Registry.fetch(pool)
    eventually(fn -> match?({1, _}, Native.pool_snapshot(native)) end)
    kill(pool, home)
    assert {:error, %Error{reason: :worker_crashed}} = await(task)
    assert {:error, %Error{reason: :session_lost, command: "tally"}} = await(waiting)
    assert {:ok, %{"count" => 1}} = tally(pool, "s")
  end

  test "any string is an id, and hostile ids are refused with the limit" do
    pool = start_pool!()

    for id <- ["ü 中 🐍", " ", "../../etc", String.duplicate("x", 1024)] do
      assert {:ok, %{"count" => 1}} = tally(pool, id)
    end

    for id <- ["", "a\0b", <<255>>, String.duplicate("x", 1_000_000), :atom, nil] do
      for {:error, error} <- [
            tally(pool, id),
            Snakepit.execute_in_session_stream(id, "tally", %{}, & &1, pool: pool),
            Snakepit.end_session(id, pool: pool)
          ] do
        assert %Error{reason: :invalid_options, message: message} = error
        assert message =~ ":session_id" and message =~ "1024" and byte_size(message) < 300
      end
    end

    assert {:error, %Error{message: message}} = tally(pool, "s", affinity: :sometimes)
    assert message =~ ":affinity" and message =~ ":strict"
  end
end
