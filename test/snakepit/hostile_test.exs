defmodule Snakepit.HostileTest do
  # A lying server. Whatever it sends, a call ends with a value or a clear error.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.GRPC.Client

  defmodule Adapter do
    use Snakepit.Test.ServerAdapter, script: "lying_server.py"
  end

  setup_all do
    %{pool: start_server_pool!(Adapter)}
  end

  defp execute(command, pool, args \\ %{}) do
    Snakepit.execute(command, args, pool: pool)
  end

  defp error(command, pool) do
    assert {:error, %Error{} = error} = execute(command, pool)
    error
  end

  test "an invalid message is an error of the call", %{pool: pool} do
    for command <- ~w(truncated length_beyond deep_message) do
      error = error(command, pool)

      assert error.reason in [:rpc_error, :internal_error, :invalid_result, :python_error],
             command

      assert error.message =~ "decode" or error.message =~ "depth" or error.message =~ "length"
    end

    for _ <- 1..50 do
      assert {kind, _} = execute("garbage", pool)
      assert kind in [:ok, :error]
    end
  end

  test "a value that does not match its kind is named", %{pool: pool} do
    for {command, problem} <- [
          name_no_utf8: ~s(the name "\uFFFD" is not valid UTF-8),
          text_no_utf8: "result.x is marked as text but is not valid UTF-8",
          json_no_utf8: "result.x is marked as JSON but is not valid UTF-8",
          json_broken: "result.x is not valid JSON: expected a value at byte 5",
          json_constant: "result.x is not valid JSON: expected a value at byte 0",
          json_twice: ~s(result.x has the key "a" twice),
          json_surrogate: "result.x is not valid JSON: lone surrogate",
          json_huge_float: "result.x is not valid JSON: the number is out of the range of floats",
          json_deep: "result.x is nested deeper than 128 levels",
          json_deep_closed: "result.x is nested deeper than 128 levels",
          plain_deep: "result.x is nested deeper than 128 levels",
          digits: "result.x has an integer of more than 100000 digits",
          kind_unknown: "result.x has the unknown kind 77",
          kinds_missing: "the server sent 1 values but 0 kinds",
          kinds_many: "the server sent 1 values but 1000 kinds",
          field_twice: "the server sent 1 values but 2 kinds",
          mark_alone: "result.x is not valid JSON: the tag's value is not an array",
          mark_unknown: "result.x is not valid JSON: the tag has an unknown name",
          tail_beyond: "result.x is not valid JSON: the tail has no such range",
          tail_overflow: "result.x is not valid JSON: the tail has no such range",
          tail_over: "result.x is not valid JSON: the tail has no such range",
          tensor_shape:
            "result.x is not valid JSON: the tensor's length does not match its shape",
          tensor_overflow:
            "result.x is not valid JSON: the tensor's length does not match its shape",
          tensor_dtype: "result.x is not valid JSON: the dtype is unknown"
        ] do
      error = error(to_string(command), pool)
      assert error.reason == :invalid_result
      assert error.message =~ problem, "#{command}: #{error.message}"
    end
  end

  test "values that are merely large arrive, and no text creates an atom", %{pool: pool} do
    assert {:ok, %{"x" => map}} = execute("wide", pool)
    assert map_size(map) == 1_000_000
    assert {:ok, map} = execute("wide_message", pool)
    assert map_size(map) == 200_000
    assert {:ok, %{"x" => list}} = execute("bomb", pool)
    assert length(List.flatten(list)) == 1_000_000
    assert {:ok, %{"x" => empty}} = execute("many_marks", pool)
    assert length(empty) == 100_000
    assert {:error, %Error{}} = execute("error_of_no_reason", pool)

    # Names of fields and of keys, a reason, a type.
    for name <- ["k999999", "k199999", String.duplicate("x", 1000), String.duplicate("T", 1000)] do
      assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
    end
  end

  test "an error of an unknown kind is a Python error", %{pool: pool} do
    assert %{reason: :python_error, message: "no detail"} = error("error_text_only", pool)

    assert %{reason: :python_error, details: %{code: "c", data: nil}} =
             error("error_of_no_reason", pool)

    assert %{reason: :python_error} = error("empty", pool)
    assert Exception.message(error("error_of_no_reason", pool)) =~ "TTT"
  end

  test "any status code, known or unknown, maps to a reason", %{pool: pool} do
    for code <- Enum.concat(1..16, [17, 99, 1000, 2_147_483_647]) do
      error = error("status #{code}", pool)
      assert error.reason != :internal_error
      if code > 16, do: assert(error.reason == :rpc_error)
    end
  end

  test "false chunks end the stream after the correct ones", %{pool: pool} do
    me = self()

    for {command, reason} <- [chunk_kinds: :invalid_result, garbage: :rpc_error] do
      result = Snakepit.execute_stream(to_string(command), %{}, &send(me, &1), pool: pool)
      assert {:error, %Error{reason: ^reason}} = result
      flush()
    end

    for {command, expected, message} <- [
          {"after_final", 2, "the server sent a chunk after the final one"},
          {"chunk_missing", 1, "the server sent chunk 5 where 1 was expected"},
          {"chunk_twice", 2, "the server sent chunk 1 where 2 was expected"}
        ] do
      assert {:error, %Error{reason: :rpc_error, message: ^message}} =
               Snakepit.execute_stream(command, %{}, &send(me, {:chunk, &1}), pool: pool)

      for _ <- 1..expected, do: assert_received({:chunk, _})
      refute_received {:chunk, _}

      {:ok, call} = Snakepit.start_stream(command, %{}, pool: pool, demand: 100)
      assert {:error, %Error{reason: :rpc_error, message: ^message}} = last_event(call)
    end
  end

  test "chunks that are numbered from 1, or not at all, arrive", %{pool: pool} do
    for command <- ["from_one", "unnumbered"] do
      assert [_, _, _] = Enum.to_list(Snakepit.stream(command, %{}, pool: pool))
    end
  end

  test "results of random bytes are values or errors", %{pool: pool} do
    :rand.seed(:exsss, {1, 2, 3})

    for _ <- 1..300 do
      answer = :rand.bytes(:rand.uniform(40))
      assert {kind, _} = execute("raw", pool, %{answer: Snakepit.bytes(answer)})
      assert kind in [:ok, :error]
    end
  end

  test "a deep and wide argument is refused or sent in bounded time" do
    deep = Enum.reduce(1..100_000, [], fn _, inner -> [inner] end)
    assert_raise Error, ~r/nested deeper than 128/, fn -> Client.encode_args(%{x: deep}) end
    deep = Enum.reduce(1..100_000, ~D[2026-01-01], fn _, inner -> %{a: inner} end)
    assert_raise Error, ~r/nested deeper than 128/, fn -> Client.encode_args(%{x: deep}) end
    wide = Map.new(1..1_000_000, &{&1, nil})
    assert %{"x" => <<"{\"", _::binary>>} = Client.encode_args(%{x: wide})

    assert_raise Error, ~r/more than 100000 digits/, fn ->
      Client.encode_args(%{x: 10 ** 100_001})
    end
  end

  defp last_event(%{ref: ref} = call) do
    receive do
      {:snakepit, ^ref, {:chunks, _}} -> last_event(call)
      {:snakepit, ^ref, event} -> event
    after
      60_000 -> flunk("no event")
    end
  end

  defp flush do
    receive do
      _ -> flush()
    after
      0 -> :ok
    end
  end
end
