defmodule Snakepit.NodeAdapterTest do
  # A worker in another language, as in guides/adapters.md.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Error

  unless System.find_executable("node"), do: @moduletag(skip: "node is not installed")

  @adapter "../../examples/node_adapter"

  setup_all do
    [{adapter, _}] = Code.require_file("#{@adapter}/node_adapter.ex", __DIR__)
    %{pool: start_pool!(adapter: adapter, max_concurrency: 4), adapter: adapter}
  end

  test "the example has less than 150 lines" do
    files = Path.wildcard(Path.expand("#{@adapter}/*.{ex,js}", __DIR__))
    assert [_, _] = files
    lines = files |> Enum.flat_map(&File.stream!/1) |> length()
    assert lines < 150
  end

  test "calls, values, and results that are not maps work", %{pool: pool} do
    assert {:ok, %{"status" => "ok"}} = Snakepit.execute("ping", %{}, pool: pool)
    args = %{"text" => "grüße", "list" => [1, 2.5, nil, true, %{"a" => []}]}
    assert Snakepit.execute("echo", args, pool: pool) == {:ok, args}

    assert {:ok, %{"result" => [3, 5]}} =
             Snakepit.execute("word_lengths", %{text: "one three"}, pool: pool)
  end

  test "errors are reported", %{pool: pool} do
    assert {:error, %Error{reason: :unknown_command, message: message}} =
             Snakepit.execute("pong", %{}, pool: pool)

    assert message =~ "word_lengths"

    assert {:error, %Error{reason: :python_error, details: %{type: "TypeError"}}} =
             Snakepit.execute("word_lengths", %{}, pool: pool)
  end

  test "several calls at once get their own answers", %{pool: pool} do
    tasks =
      for n <- 1..50, do: Task.async(fn -> Snakepit.execute("echo", %{n: n}, pool: pool) end)

    assert await_many(tasks) == for(n <- 1..50, do: {:ok, %{"n" => n}})
  end

  test "a deadline cancels, and the worker stays", %{adapter: adapter} do
    pool = start_pool!(adapter: adapter, kill_grace: 60_000)
    {:ok, %{"pid" => worker}} = Snakepit.execute("ping", %{}, pool: pool)

    assert {:error, %Error{reason: :timeout}} =
             Snakepit.execute("sleep", %{ms: 600_000}, pool: pool, timeout: 300)

    assert {:ok, %{"pid" => ^worker}} = Snakepit.execute("ping", %{}, pool: pool)
  end

  test "sessions keep their state", %{pool: pool} do
    count = fn id -> Snakepit.execute_in_session(id, "count", %{}, pool: pool) end
    assert {:ok, %{"count" => 1}} = count.("a")
    assert {:ok, %{"count" => 2}} = count.("a")
    assert {:ok, %{"count" => 1}} = count.("b")
    :ok = Snakepit.end_session("a", pool: pool)
    assert {:ok, %{"count" => 1}} = count.("a")
  end

  test "a killed worker is replaced, and the worker of a stopped pool is gone", %{
    adapter: adapter
  } do
    pool = start_pool!(adapter: adapter)
    {:ok, %{"pid" => first}} = Snakepit.execute("ping", %{}, pool: pool)
    signal("KILL", first)

    eventually(fn ->
      match?({:ok, %{"pid" => pid}} when pid != first, Snakepit.execute("ping", %{}, pool: pool))
    end)

    {:ok, %{"pid" => second}} = Snakepit.execute("ping", %{}, pool: pool)
    capture_log(fn -> :ok = stop_supervised({Snakepit.Pool, pool}) end)
    eventually(fn -> not alive?(second) end)
  end
end
