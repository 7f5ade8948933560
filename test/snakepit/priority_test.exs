defmodule Snakepit.PriorityTest do
  # Which calls in the queue get a worker first.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Native}

  @moduletag :tmp_dir

  for {kind, way} <- ways() do
    test "waiting calls of a higher priority are served first on #{kind}", %{tmp_dir: dir} do
      pool = start_pool!(unquote(way))
      calls = [note: :low, note: :normal, note: :high]
      assert served(pool, dir, calls) == ["note high", "note normal", "note low"]
    end
  end

  test "streams wait in the same queue", %{tmp_dir: dir} do
    pool = start_pool!()
    calls = [note_stream: :low, note: :low, note: :high, note_stream: :high]
    expected = ["note high", "note_stream high", "note_stream low", "note low"]
    assert served(pool, dir, calls) == expected
  end

  test "so do the calls of map/3", %{tmp_dir: dir} do
    pool = start_pool!()
    calls = [note_map: :low, note: :normal, note_map: :high]
    assert served(pool, dir, calls) == ["note_map high", "note normal", "note_map low"]
  end

  test "calls that wait for their session's worker are served by their priority as well",
       %{tmp_dir: dir} do
    pool = start_pool!()
    {:ok, _} = Snakepit.execute("ping", %{}, pool: pool, session_id: "s")
    calls = [note: :low, note: :normal, note: :high]
    expected = ["note high", "note normal", "note low"]
    assert served(pool, dir, calls, session_id: "s") == expected
  end

  test "another priority is an invalid option" do
    pool = start_pool!()
    options = [pool: pool, priority: :urgent]

    for start <- [&Snakepit.execute/3, &Snakepit.start_stream/3] do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               start.("ping", %{}, options)

      assert message =~ ":priority" and message =~ ":high"
    end
  end

  # Makes the calls one after another while the pool's one worker is busy. Returns the order in which they ran.
  defp served(pool, dir, calls, options \\ [], attempt \\ 1) do
    [started, until, notes] =
      for name <- ~w(started until notes), do: Path.join(dir, "#{name}#{attempt}")

    options = [{:pool, pool} | options]
    args = %{started: started, until: until}
    held = Task.async(fn -> Snakepit.execute("hold", args, options) end)
    eventually(fn -> File.exists?(started) end)

    {took, waiting} =
      :timer.tc(fn ->
        for {{command, priority}, count} <- Enum.with_index(calls, 1) do
          task = Task.async(fn -> note(command, notes, priority, options) end)
          eventually(fn -> queued(pool) == count end)
          task
        end
      end)

    File.touch!(until)
    {:ok, _} = await(held)
    await_many(waiting)

    # A call overtakes those that came up to a second before it: more have passed on a machine that is too busy.
    if took < 1_000_000,
      do: lines(notes),
      else: served(pool, dir, calls, Keyword.delete(options, :pool), attempt + 1)
  end

  defp note(:note, path, priority, options) do
    args = %{path: path, text: "note #{priority}"}
    {:ok, _} = Snakepit.execute("note", args, [{:priority, priority} | options])
  end

  defp note(:note_map, path, priority, options) do
    elements = [%{path: path, text: "note_map #{priority}"}]

    assert [{:ok, _}] =
             "note" |> Snakepit.map(elements, [{:priority, priority} | options]) |> Enum.to_list()
  end

  defp note(:note_stream, path, priority, options) do
    args = %{path: path, text: "note_stream #{priority}"}
    options = [{:priority, priority} | options]
    :ok = Snakepit.execute_stream("note_stream", args, & &1, options)
  end

  defp queued(pool), do: pool |> native() |> Native.pool_snapshot() |> elem(0)
end
