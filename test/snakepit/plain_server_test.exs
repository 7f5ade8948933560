defmodule Snakepit.PlainServerTest do
  # Servers of the contract that send none of Snakepit's additions.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  defmodule Adapter do
    use Snakepit.Test.ServerAdapter, script: "plain_server.py"
  end

  setup_all do
    %{pool: start_server_pool!(Adapter, max_concurrency: 8)}
  end

  test "unary calls work, in a session too", %{pool: pool} do
    for options <- [[], [session_id: "s"]] do
      assert Snakepit.execute("echo", %{a: 1, b: "text", c: <<255>>}, [pool: pool] ++ options) ==
               {:ok, %{"a" => 1, "b" => "text", "c" => <<255>>}}
    end
  end

  test "failures and statuses are errors", %{pool: pool} do
    assert {:error, %Error{reason: :python_error, message: "it failed"}} =
             Snakepit.execute("fail", %{}, pool: pool)

    assert {:error, %Error{reason: :unknown_command, message: "no such thing"}} =
             Snakepit.execute("abort", %{}, pool: pool)

    assert {:error, %Error{reason: :streaming_not_supported}} =
             Snakepit.execute_stream("echo", %{}, & &1, pool: pool)
  end

  test "tools and inputs are refused before anything runs", %{pool: pool} do
    tools = [tools: [tool: & &1], pool: pool]

    for {:error, error} <- [
          Snakepit.execute("echo", %{}, tools),
          Snakepit.execute("echo", %{rows: Snakepit.input([1])}, pool: pool),
          Snakepit.execute_stream("count", %{count: 1}, & &1, tools)
        ] do
      assert %Error{reason: :streaming_not_supported, message: message} = error
      assert message =~ "takes no tools and no input streams"
      refute Error.may_have_run?(error)
    end

    assert {:ok, %{"a" => 1}} = Snakepit.execute("echo", %{a: 1}, pool: pool)
  end

  test "all three ways to consume a stream work", %{pool: pool} do
    expected = for index <- 0..999, do: %{"index" => index, "is_final" => false}
    me = self()
    args = %{count: 1000}
    assert :ok = Snakepit.execute_stream("count", args, &send(me, {:chunk, &1}), pool: pool)
    assert received() == expected
    assert Enum.to_list(Snakepit.stream("count", args, pool: pool)) == expected
    {:ok, call} = Snakepit.start_stream("count", args, pool: pool, demand: 1000, session_id: "s")
    assert events(call) == expected
  end

  test "an error after some chunks follows them", %{pool: pool} do
    me = self()

    assert {:error, %Error{reason: :python_error, message: "no more"}} =
             Snakepit.execute_stream("fail_after", %{count: 3}, &send(me, {:chunk, &1}),
               pool: pool
             )

    assert [%{"index" => 0}, %{"index" => 1}, %{"index" => 2}] = received()
  end

  @tag :tmp_dir
  test "halting closes the generator, and the worker continues", %{pool: pool, tmp_dir: dir} do
    closed = Path.join(dir, "closed")

    assert [_, _] = "endless" |> Snakepit.stream(%{closed: closed}, pool: pool) |> Enum.take(2)

    eventually(fn -> File.exists?(closed) end)
    assert {:ok, %{"a" => 1}} = Snakepit.execute("echo", %{a: 1}, pool: pool)
  end

  defp received do
    receive do
      {:chunk, chunk} -> [chunk | received()]
    after
      0 -> []
    end
  end

  defp events(%{ref: ref} = call) do
    receive do
      {:snakepit, ^ref, {:chunks, chunks}} -> chunks ++ events(call)
      {:snakepit, ^ref, {:done, _info}} -> []
    end
  end
end
