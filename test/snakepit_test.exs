defmodule SnakepitTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  @moduletag :tmp_dir

  setup_all do
    %{pool: start_pool!(size: 2)}
  end

  describe "execute/3" do
    test "returns what the command returned", %{pool: pool} do
      assert {:ok, %{"status" => "ok"}} = Snakepit.execute("ping", %{}, pool: pool)
      assert {:ok, %{"result" => 5}} = Snakepit.execute("add", %{a: 2, b: 3}, pool: pool)
      assert {:ok, %{"result" => 5}} = Snakepit.execute("add_async", [a: 2, b: 3], pool: pool)
    end

    test "carries values in both directions", %{pool: pool} do
      args = %{
        "text" => "grüße",
        "bytes" => <<255, 0, 254>>,
        "list" => [1, 2.5, nil, true, "x", [], %{}],
        "map" => %{"a" => %{"b" => [%{"c" => -1}]}},
        "big" => 2 ** 200
      }

      assert Snakepit.execute("echo", args, pool: pool) == {:ok, args}
    end

    test "carries ten megabytes", %{pool: pool} do
      blob = :binary.copy(<<255>>, 10_000_000)
      assert {:ok, %{"blob" => ^blob}} = Snakepit.execute("echo", %{blob: blob}, pool: pool)
      list = Enum.to_list(1..200_000)
      assert {:ok, %{"list" => ^list}} = Snakepit.execute("echo", %{list: list}, pool: pool)
    end

    test "returns each of 32 concurrent callers its own answer", %{pool: pool} do
      answers =
        1..32
        |> Enum.map(fn caller ->
          Task.async(fn ->
            for call <- 1..50 do
              n = caller * 1000 + call
              {:ok, %{"n" => answer}} = Snakepit.execute("echo", %{n: n}, pool: pool)
              {n, answer}
            end
          end)
        end)
        |> Task.await_many(30_000)
        |> List.flatten()

      assert length(answers) == 1600
      assert Enum.all?(answers, fn {asked, answered} -> asked == answered end)
    end

    test "passes on the request id", %{pool: pool} do
      options = [pool: pool, request_id: "mine-1"]
      assert {:ok, %{"id" => "mine-1"}} = Snakepit.execute("request", %{}, options)
      assert {:ok, %{"id" => made}} = Snakepit.execute("request", %{}, pool: pool)
      assert byte_size(made) > 8
    end

    test "returns a Python exception with its type, message and traceback", %{pool: pool} do
      assert {:error, %Error{reason: :python_error} = error} =
               Snakepit.execute("fail", %{message: "boom"}, pool: pool)

      assert error.command == "fail"
      assert error.pool == pool
      assert error.worker_id =~ "/"
      assert byte_size(error.request_id) > 8
      assert %{type: "ValueError", message: "boom", traceback: traceback} = error.details
      assert traceback =~ "trouble.py"
      assert Exception.message(error) =~ "boom"
    end

    test "names unknown commands", %{pool: pool} do
      assert {:error, %Error{reason: :unknown_command, message: message}} =
               Snakepit.execute("pong", %{}, pool: pool)

      assert message =~ "ping"
    end

    test "names the parameters when arguments are wrong", %{pool: pool} do
      for args <- [%{}, %{a: 1, c: 2}] do
        assert {:error, %Error{reason: :invalid_args, message: message}} =
                 Snakepit.execute("add", args, pool: pool)

        assert message =~ "add"
        assert message =~ "a: int"
        assert message =~ "b: int"
      end
    end

    test "refuses a value that cannot be sent, with its path", %{pool: pool} do
      assert {:error, %Error{reason: :invalid_args, message: message}} =
               Snakepit.execute("echo", %{a: [%{b: self()}]}, pool: pool)

      assert message =~ "args.a[0].b is a pid"
    end

    test "refuses unknown options and lists the known ones", %{pool: pool} do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Snakepit.execute("ping", %{}, pool: pool, timout: 5)

      assert message =~ ":timout" and message =~ ":timeout"

      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Snakepit.execute("ping", %{}, pool: pool, timeout: -1)

      assert message =~ ":timeout" and message =~ "-1"
    end

    test "says how to start a pool that does not exist" do
      assert {:error, %Error{reason: :pool_stopped, message: message}} =
               Snakepit.execute("ping", %{}, pool: :nowhere)

      assert message =~ "Snakepit.Pool, name: :nowhere"
    end
  end

  describe "execute_stream/4" do
    test "delivers the chunks in order, the returned one as final", %{pool: pool} do
      assert {:ok, chunks} = collect("ping_stream", %{count: 3}, pool)
      assert Enum.map(chunks, & &1["is_final"]) == [false, false, true]
    end

    test "delivers 100,000 chunks, complete and in order", %{pool: pool} do
      for command <- ["counted", "counted_async"] do
        assert {:ok, chunks} = collect(command, %{count: 100_000}, pool)
        assert Enum.map(chunks, & &1["index"]) == Enum.to_list(0..99_999)
      end
    end

    test "delivers the chunks before an exception, then the exception", %{pool: pool} do
      assert {{:error, %Error{reason: :python_error, details: %{type: "ValueError"}}}, chunks} =
               collect("fail_after", %{count: 500}, pool)

      assert Enum.map(chunks, & &1["index"]) == Enum.to_list(0..499)
    end

    test "stops at :halt and closes the generator", %{pool: pool, tmp_dir: dir} do
      closed = Path.join(dir, "closed")
      halt = fn chunk -> if chunk["index"] == 5, do: :halt end
      assert :ok = Snakepit.execute_stream("endless", %{closed: closed}, halt, pool: pool)
      eventually(fn -> File.exists?(closed) end)
      assert Process.info(self(), :messages) == {:messages, []}
    end

    test "a callback's exception cancels the stream and propagates", %{pool: pool, tmp_dir: dir} do
      closed = Path.join(dir, "closed")
      raises = fn _chunk -> raise "mine" end

      assert_raise RuntimeError, "mine", fn ->
        Snakepit.execute_stream("endless", %{closed: closed}, raises, pool: pool)
      end

      eventually(fn -> File.exists?(closed) end)
      assert Process.info(self(), :messages) == {:messages, []}
    end

    test "ends at the deadline", %{pool: pool, tmp_dir: dir} do
      closed = Path.join(dir, "closed")

      assert {:error, %Error{reason: :timeout}} =
               Snakepit.execute_stream("endless", %{closed: closed}, fn _ -> nil end,
                 pool: pool,
                 timeout: 200
               )

      eventually(fn -> File.exists?(closed) end)
    end

    test "a plain function is one final chunk", %{pool: pool} do
      assert {:ok, [%{"result" => 3, "is_final" => true}]} = collect("add", %{a: 1, b: 2}, pool)
    end
  end

  defp collect(command, args, pool) do
    me = self()
    ref = make_ref()
    result = Snakepit.execute_stream(command, args, &send(me, {ref, &1}), pool: pool)
    chunks = received(ref, [])
    if result == :ok, do: {:ok, chunks}, else: {result, chunks}
  end

  defp received(ref, chunks) do
    receive do
      {^ref, chunk} -> received(ref, [chunk | chunks])
    after
      0 -> Enum.reverse(chunks)
    end
  end
end
