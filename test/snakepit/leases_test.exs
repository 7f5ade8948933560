defmodule Snakepit.LeasesTest do
  # The places of workers that the BEAM reaches through their own process (stdin and stdout).
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.{Codec, Native}
  alias Snakepit.Config.Options

  setup do
    limits = %{max_queue: 1, max_sessions: 1, session_ttl: nil, pipeline_budget: 0}

    pool =
      Native.pool_new(Map.merge(limits, %{size: 1, startup_timeout: 1_000, remote: false}), false)

    worker = %{
      id: "pool/1",
      max_concurrency: 1,
      kill_grace: 1_000,
      observer: nil,
      batches: [],
      owned: true,
      faults: nil
    }

    Native.pool_add(pool, nil, worker)
    %{pool: pool}
  end

  test "a free place is taken at once, a released one by the next in the queue", %{pool: pool} do
    me = self()
    of_worker = %{worker: me, worker_id: "pool/1", generation: 0}
    assert {:ok, %{lease: lease} = acquired} = acquire(pool)
    assert Map.delete(acquired, :lease) == of_worker
    ref = make_ref()
    assert {:wait, _handle} = acquire(pool, ref)
    refute_received _
    Native.release(lease)
    assert_receive {^ref, {:ok, %{lease: next} = acquired}}
    assert Map.delete(acquired, :lease) == of_worker
    assert {1, 0} = in_flight(pool)
    Native.release(next)
    Native.release(next)
    assert {0, 0} = in_flight(pool)
  end

  test "a full queue refuses", %{pool: pool} do
    {:ok, %{lease: lease}} = acquire(pool)
    assert {:wait, _handle} = acquire(pool)
    assert {:error, {:pool_saturated, _message, %{max_queue: 1}}} = acquire(pool)
    assert {1, 1} = in_flight(pool)
    # Keep it from being garbage-collected until here.
    Native.release(lease)
  end

  test "a call that has not started waits in the order in which it was made, though the queue is full",
       %{pool: pool} do
    {:ok, %{lease: running}} = acquire(pool)
    [later, earlier] = [make_ref(), make_ref()]
    assert {:wait, _handle} = acquire(pool, later)
    assert {:wait, _handle} = acquire(pool, earlier, :infinity, 60_000_000)
    Native.release(running)
    assert_receive {^earlier, {:ok, %{lease: running}}}
    refute_received {^later, _}
    Native.release(running)
    assert_receive {^later, {:ok, %{lease: running}}}
    Native.release(running)
  end

  test "a call of a low priority is not overtaken by one that comes much later",
       %{pool: pool} do
    {:ok, %{lease: running}} = acquire(pool)
    [low, high] = [make_ref(), make_ref()]

    [low_spec, high_spec] =
      for priority <- [:low, :high] do
        options = Options.defaults(timeout: :infinity, priority: priority)
        {:ok, spec} = Codec.spec("command", options)
        spec
      end

    assert {:wait, _handle} = Native.acquire(pool, high, high_spec, 0)
    assert {:wait, _handle} = Native.acquire(pool, low, low_spec, 60_000_000)
    Native.release(running)
    assert_receive {^low, {:ok, %{lease: running}}}
    refute_received {^high, _}
    Native.release(running)
    assert_receive {^high, {:ok, %{lease: running}}}
    Native.release(running)
  end

  test "waiting ends at the deadline", %{pool: pool} do
    {:ok, %{lease: lease}} = acquire(pool)
    ref = make_ref()
    assert {:wait, _handle} = acquire(pool, ref, 50)
    assert_receive {^ref, {:error, {:timeout, _message, %{queued: true}}}}
    assert {1, 0} = in_flight(pool)
    # Keep it from being garbage-collected until here.
    Native.release(lease)
  end

  test "the death of a holder releases its place, the death of a waiter frees the queue", %{
    pool: pool
  } do
    me = self()

    holder =
      spawn(fn ->
        {:ok, lease} = acquire(pool)
        send(me, :held)
        receive do: (:never -> lease)
      end)

    assert_receive :held

    waiting =
      spawn(fn ->
        {:wait, _handle} = acquire(pool, make_ref())
        send(me, :waits)
        receive do: (:never -> :ok)
      end)

    assert_receive :waits
    assert {1, 1} = in_flight(pool)
    Process.exit(waiting, :kill)
    eventually(fn -> in_flight(pool) == {1, 0} end)
    Process.exit(holder, :kill)
    eventually(fn -> in_flight(pool) == {0, 0} end)
  end

  # `made`: how many microseconds ago, if the call had a lease before.
  defp acquire(pool, ref \\ make_ref(), timeout \\ :infinity, made \\ nil) do
    {:ok, spec} = Codec.spec("command", Options.defaults(timeout: timeout))
    Native.acquire(pool, ref, spec, made)
  end

  defp in_flight(pool) do
    {queued, [{_key, in_flight, _draining}]} = Native.pool_snapshot(pool)
    {in_flight, queued}
  end
end
