for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "ErrorOver#{kind}Test") do
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @way way
    @python Path.expand("../support/python", __DIR__)

    setup_all do
      args = [class: "error_commands:ErrorCommands", paths: [@python]]
      %{pool: start_pool!([adapter_args: args] ++ @way)}
    end

    defp error(command, args, pool) do
      assert {:error, %Error{} = error} = Snakepit.execute(command, args, pool: pool)
      error
    end

    describe "a Python exception" do
      test "arrives with its frames and its cause", %{pool: pool} do
        error = error("chained", %{}, pool)

        assert %{reason: :python_error, message: "ValueError: cannot go on", details: details} =
                 error

        assert %{type: "ValueError", message: "cannot go on", notes: []} = details

        assert [%{function: "chained", line: line, source: source, file: file}] = details.frames
        assert source == ~S{raise ValueError("cannot go on") from error}
        assert file |> File.read!() |> String.split("\n") |> Enum.at(line - 1) =~ source

        assert %{type: "error_commands.MissingError", message: "no x", cause: nil} = details.cause
        assert Enum.map(details.cause.frames, & &1.function) == ["chained", "_find"]
        assert details.traceback =~ "The above exception was the direct cause"
      end

      test "reads like a traceback, with the cause and without libraries", %{pool: pool} do
        message = Exception.message(error("chained", %{}, pool))

        assert "python_error in command \"chained\": ValueError: cannot go on\n" <> steps =
                 message

        assert steps =~
                 ~r/^    test\/support\/python\/error_commands.py:\d+: chained\n        raise Val/

        assert steps =~ ~r/\n  caused by error_commands.MissingError: no x\n/
        message = Exception.message(error("in_library", %{text: "{"}, pool))
        assert message =~ "json.decoder.JSONDecodeError: Expecting property name"
        assert message =~ "return json.loads(text)"
        refute message =~ "json/decoder.py"
      end

      test "without a text is only its type, as in Python", %{pool: pool} do
        error = error("silent", %{}, pool)
        assert error.message == "LookupError"
        assert Exception.message(error) =~ ~r/\n  caused by KeyError$/
      end

      test "of a thousand frames is shown in few", %{pool: pool} do
        error = error("recursive", %{}, pool)
        assert error.details.type == "RecursionError"
        assert length(error.details.frames) == 40
        assert length(String.split(Exception.message(error), "\n")) < 20
      end
    end

    describe "a CommandError" do
      test "is matched by its code, with its data", %{pool: pool} do
        assert %{reason: :command_error, details: %{code: "denied", data: nil}} =
                 error("bare_code", %{}, pool)

        assert %{reason: :command_error, details: details} = error("sell", %{}, pool)
        assert %{code: "out_of_stock", data: %{"left" => 3, "image" => [<<255>>]}} = details
        assert details.type == "error_commands.OutOfStockError"
      end

      test "prints as its code and its message", %{pool: pool} do
        assert Exception.message(error("sell", %{}, pool)) == "out_of_stock: only 3 are left"
        assert Exception.message(error("bare_code", %{}, pool)) == "denied"
        assert error("sell", %{}, pool).details.message == "only 3 are left"
        assert {:error, error} = Snakepit.execute("sell", %{}, pool: pool)
        assert error.details.traceback =~ "OutOfStockError: out_of_stock: only 3 are left"
      end

      if way[:server] do
        test "ends a stream", %{pool: pool} do
          assert_raise Error, "out_of_stock: only 3 are left", fn ->
            "buy" |> Snakepit.stream(%{count: 2}, pool: pool) |> Stream.run()
          end

          assert {:error, %Error{reason: :command_error, details: details}} =
                   Snakepit.execute_stream("buy", %{count: 2}, & &1, pool: pool)

          assert %{code: "out_of_stock", data: %{"left" => 3, "image" => [<<255>>]}} = details
          assert details.type == "error_commands.OutOfStockError"
        end
      end
    end

    describe "arguments" do
      test "of the annotated types are accepted, of all kinds", %{pool: pool} do
        for args <- [
              %{
                text: "x",
                count: 1,
                ratio: 0.5,
                flag: true,
                data: <<255>>,
                items: [],
                table: %{}
              },
              %{ratio: 1, table: nil, either: nil, mode: "slow", other: 5},
              %{either: 1, mode: 3, other: "x"},
              %{either: "x"}
            ] do
          assert {:ok, %{"result" => _}} = Snakepit.execute("typed", args, pool: pool)
        end
      end

      test "of a wrong type are named, with the expected type", %{pool: pool} do
        for {args, problem} <- [
              {%{text: 1}, "text (expected str, got int 1)"},
              {%{text: <<255>>}, "text (expected str, got bytes b'\\xff')"},
              {%{count: "1"}, "count (expected int, got str '1')"},
              {%{count: true}, "count (expected int, got bool True)"},
              {%{count: 1.0}, "count (expected int, got float 1.0)"},
              {%{ratio: "1"}, "ratio (expected float, got str '1')"},
              {%{flag: nil}, "flag (expected bool, got NoneType None)"},
              {%{data: 1}, "data (expected bytes, got int 1)"},
              {%{items: %{}}, "items (expected list[int], got dict {})"},
              {%{table: []}, "table (expected Optional[dict[str, int]], got list [])"},
              {%{either: 0.5}, "either (expected Union[int, str, None], got float 0.5)"},
              {%{mode: "slaw"}, "mode (expected Literal['fast', 'slow', 3], got str 'slaw')"},
              {%{mode: []}, "mode (expected Literal"}
            ] do
          error = error("typed", args, pool)
          assert error.reason == :invalid_args
          assert error.message =~ "of the wrong type " <> problem

          assert error.message =~ "the command is typed(text: str = '', count: int = 0"
        end
      end

      test "that are text become bytes if the command takes bytes", %{pool: pool} do
        assert {:ok, %{"result" => result}} =
                 Snakepit.execute("typed", %{data: "grün"}, pool: pool)

        assert result =~ ~S(b'gr\xc3\xbcn')
      end

      test "that are missing, unknown and wrong are named together", %{pool: pool} do
        error = error("compute", %{operatoin: "add", a: "1"}, pool)

        assert error.message ==
                 "missing b, operation; unknown operatoin (did you mean operation?); " <>
                   "of the wrong type a (expected float, got str '1'): " <>
                   "the command is compute(operation: str, a: float, b: float)"
      end
    end

    test "an unknown command is reported with similar names", %{pool: pool} do
      assert %{reason: :unknown_command, message: message} = error("typd", %{}, pool)
      assert message =~ "did you mean 'typed'?"
    end
  end
end

defmodule Snakepit.ErrorMayHaveRunTest do
  use ExUnit.Case, async: true

  alias Snakepit.Error

  @guide Path.expand("../../guides/reliability.md", __DIR__)

  test "the guide says of every reason whether the command may have run" do
    [_, section] = @guide |> File.read!() |> String.split("### Which failures may have run\n")
    [section | _] = String.split(section, "\n## ")

    said =
      for [_row, reasons, answer] <- Regex.scan(~r/^\| (`:.+?) \| (yes|no)\b/m, section),
          [reason] <- Regex.scan(~r/(?<=:)\w+/, reasons),
          do: {String.to_atom(reason), answer == "yes"}

    {_, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Error)
    reasons = for [_, reason] <- Regex.scan(~r/^\| `:(\w+)` \|/m, doc), do: reason
    assert said |> Enum.map(&to_string(elem(&1, 0))) |> Enum.sort() == Enum.sort(reasons)
    for {reason, may} <- said, do: assert(Error.may_have_run?(%Error{reason: reason}) == may)
  end

  test "details decide where the reason alone does not" do
    refute Error.may_have_run?(%Error{reason: :timeout, details: %{queued: true}})
    assert Error.may_have_run?(%Error{reason: :timeout, details: %{queued: false}})
    refute Error.may_have_run?(%Error{reason: :message_too_large, details: %{size: 2, limit: 1}})
    refute Error.may_have_run?(%Error{reason: :node_unavailable, details: %{started: false}})
    assert Error.may_have_run?(%Error{reason: :grpc_unavailable, details: %{grpc_status: 14}})
  end
end
