defmodule Snakepit.PipeliningTest do
  # Short calls are sent ahead to a busy worker, but never to the disadvantage of any call.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  @moduletag :tmp_dir
  @patience patience()

  # The worker continues, and has not noted anything.
  defp never_ran!(notes, held, pool) do
    free(held)
    assert {:ok, %{"pid" => pid}} = Snakepit.execute("pid", %{}, pool: pool)
    assert pid == held.os_pid
    refute File.exists?(notes)
  end

  # A pool whose commands have ended on each worker, within a budget that any machine keeps.
  defp start_taught_pool!(dir, options) do
    pool = start_pool!(Keyword.merge([pipeline_budget: 60_000_000], options))
    held = for n <- 1..options[:size], do: hold(pool, dir, "taught#{n}")
    Enum.each(held, &free/1)

    {:ok, _} = Snakepit.execute("note", %{path: Path.join(dir, "taught")}, pool: pool)
    {:ok, _} = Snakepit.execute("pid", %{}, pool: pool)
    pool
  end

  defp call(pool, command, args, options \\ []) do
    options = [pool: pool, timeout: @patience, queue_timeout: @patience] ++ options
    Task.async(fn -> Snakepit.execute(command, args, options) end)
  end

  # A call that occupies its worker until it is freed.
  defp hold(pool, dir, name) do
    args = %{started: Path.join(dir, name), until: Path.join(dir, name <> ".until")}
    task = call(pool, "hold", args)
    eventually(fn -> File.exists?(args.started) end)
    %{task: task, until: args.until, os_pid: String.to_integer(File.read!(args.started))}
  end

  defp free(held) do
    File.touch!(held.until)
    assert {:ok, _} = await(held.task)
  end

  # The number of calls of each worker, the busiest first.
  defp in_flight(pool) do
    {_queued, workers} = pool |> native() |> Snakepit.Native.pool_snapshot()
    workers |> Enum.map(&elem(&1, 1)) |> Enum.sort(:desc)
  end

  defp queued(pool) do
    {queued, _workers} = pool |> native() |> Snakepit.Native.pool_snapshot()
    queued
  end

  test "no call waits behind a long one while the other worker is free", %{tmp_dir: dir} do
    pool = start_taught_pool!(dir, size: 2)
    held = hold(pool, dir, "long")

    1..8
    |> Enum.map(fn _ ->
      Task.async(fn ->
        for _ <- 1..50 do
          options = [pool: pool, timeout: @patience, queue_timeout: @patience]
          assert {:ok, %{"pid" => pid}} = Snakepit.execute("pid", %{}, options)
          assert pid != held.os_pid
        end
      end)
    end)
    |> await_many()

    free(held)
  end

  for first <- [0, 1] do
    test "calls behind long ones go to the first free worker, number #{first}", context do
      %{tmp_dir: dir} = context
      pool = start_taught_pool!(dir, size: 2)
      held = for name <- ~w(one other), do: hold(pool, dir, name)
      waiting = for _ <- 1..4, do: call(pool, "pid", %{})
      # They were sent ahead, and have been recalled.
      eventually(fn -> queued(pool) == 4 and in_flight(pool) == [1, 1] end)
      {freed, [still]} = List.pop_at(held, unquote(first))
      free(freed)

      for {:ok, %{"pid" => pid}} <- await_many(waiting),
          do: assert(pid == freed.os_pid)

      free(still)
    end
  end

  test "a call that has not started when its worker dies runs once, on another worker", %{
    tmp_dir: dir
  } do
    pool = start_taught_pool!(dir, size: 1)
    held = hold(pool, dir, "long")
    # A stopped worker returns nothing.
    suspend!(held.os_pid)
    notes = Path.join(dir, "notes")
    waiting = for _ <- 1..3, do: call(pool, "note", %{path: notes})
    # Calls made after the worker was found stopped are not sent ahead any more.
    eventually(fn -> hd(in_flight(pool)) > 1 and queued(pool) + hd(in_flight(pool)) == 4 end)

    signal("KILL", held.os_pid)
    assert {:error, %Error{reason: :worker_crashed}} = await(held.task)

    pids =
      for {:ok, %{"pid" => pid}} <- await_many(waiting) do
        assert pid != held.os_pid
        "#{pid}\n"
      end

    assert File.read!(notes) == Enum.join(pids)
  end

  test "a call that waits behind another ends at its deadline and never runs", %{tmp_dir: dir} do
    pool = start_taught_pool!(dir, size: 1)
    held = hold(pool, dir, "long")
    notes = Path.join(dir, "notes")

    late =
      Task.async(fn -> Snakepit.execute("note", %{path: notes}, pool: pool, timeout: 100) end)

    assert {:error, %Error{reason: :timeout}} = await(late)
    never_ran!(notes, held, pool)
  end

  test "a call whose caller dies while it waits behind another never runs", %{tmp_dir: dir} do
    pool = start_taught_pool!(dir, size: 1)
    held = hold(pool, dir, "long")
    suspend!(held.os_pid)
    notes = Path.join(dir, "notes")
    caller = spawn(fn -> Snakepit.execute("note", %{path: notes}, pool: pool) end)
    eventually(fn -> in_flight(pool) == [2] end)
    Process.exit(caller, :kill)
    signal("CONT", held.os_pid)
    eventually(fn -> in_flight(pool) == [1] end)
    never_ran!(notes, held, pool)
  end

  test "with a budget of 0 nothing is sent ahead", %{tmp_dir: dir} do
    pool = start_taught_pool!(dir, size: 1, pipeline_budget: 0)
    held = hold(pool, dir, "long")
    suspend!(held.os_pid)
    waiting = call(pool, "pid", %{})
    eventually(fn -> queued(pool) == 1 end)
    assert in_flight(pool) == [1]
    signal("CONT", held.os_pid)
    free(held)
    assert {:ok, _} = await(waiting)
  end

  test "a cancelled call does not affect its neighbours", %{tmp_dir: dir} do
    pool = start_pool!(size: 1, max_concurrency: 3, kill_grace: @patience)

    [one, cancelled, other] =
      for n <- 1..3 do
        args = %{started: Path.join(dir, "started#{n}"), until: Path.join(dir, "until")}
        options = [pool: pool, timeout: @patience]
        me = self()
        run = fn -> send(me, {n, Snakepit.execute("hold_or_cancel", args, options)}) end
        caller = spawn_link(run)
        eventually(fn -> File.exists?(args.started) end)
        caller
      end

    Process.unlink(cancelled)
    Process.exit(cancelled, :kill)
    eventually(fn -> in_flight(pool) == [2] end)
    assert Process.alive?(one) and Process.alive?(other)
    File.touch!(Path.join(dir, "until"))
    for n <- [1, 3], do: assert_receive({^n, {:ok, %{"result" => false}}}, @patience)
  end

  test "values larger than a frame arrive complete, while small ones overtake them" do
    pool = start_pool!(size: 1, max_concurrency: 4)

    large =
      for size <- [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 5_000_000],
          kind <- [:args, :result] do
        Task.async(fn ->
          options = [pool: pool, timeout: @patience, queue_timeout: @patience]
          text = String.duplicate("x", size)

          case kind do
            :args ->
              Snakepit.execute("echo", %{text: text}, options) == {:ok, %{"text" => text}}

            :result ->
              Snakepit.execute("text", %{size: size}, options) == {:ok, %{"result" => text}}
          end
        end)
      end

    for n <- 1..200 do
      options = [pool: pool, timeout: @patience, queue_timeout: @patience]
      assert {:ok, %{"n" => ^n}} = Snakepit.execute("echo", %{n: n}, options)
    end

    assert Enum.all?(await_many(large))
  end
end
