for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "ArrowOver#{kind}Test") do
    use ExUnit.Case, async: true

    import Snakepit.Test.Guide
    import Snakepit.Test.Pools

    alias Snakepit.{Arrow, Error}

    @way way
    @python Path.expand("../support/python", __DIR__)

    setup_all do
      %{pool: start_pool!(pool_options())}
    end

    defp pool_options(more \\ []) do
      [adapter_args: [class: "value_commands:ValueCommands", paths: [@python]]] ++ @way ++ more
    end

    defp evaluate(code, pool) do
      {:ok, result} = Snakepit.execute("evaluate", %{code: code}, pool: pool)
      result
    end

    defp table!(code, pool) do
      %{"result" => %Arrow{} = table} = evaluate("snakepit_bridge.arrow(#{code})", pool)
      table
    end

    # Whether the argument is that table in Python, wherever it is among the arguments.
    defp arrives!(table, code, pool) do
      args = %{value: table, nested: [%{x: table}, "after"], code: code}
      {:ok, arrived} = Snakepit.execute("same_table", args, pool: pool)
      assert arrived == %{"same" => true, "nested" => true, "over_the_message" => true}, code
    end

    test "tables arrive in both directions, as in the guide", %{pool: pool} do
      rows = rows("Arrow tables")
      assert length(rows) > 15
      for [given, wanted] <- rows, do: given |> table!(pool) |> arrives!(wanted, pool)
    end

    test "tables may be anywhere in a result", %{pool: pool} do
      code = "{'a': [1, snakepit_bridge.arrow(pyarrow.table({'n': [7]})), b'\\xff']}"
      assert %{"a" => [1, %Arrow{} = table, <<255>>]} = evaluate(code, pool)
      arrives!(table, "pyarrow.table({'n': [7]})", pool)
    end

    test "with frames: :arrow every frame arrives as a table, and a series as a list" do
      pool = start_pool!(pool_options(frames: :arrow))

      for frame <- [
            "pandas.DataFrame({'n': [7]})",
            "polars.DataFrame({'n': [7]})",
            "pyarrow.table({'n': [7]})",
            "pyarrow.record_batch({'n': [7]})"
          ] do
        assert %{"result" => %Arrow{} = table} = evaluate(frame, pool)
        arrives!(table, "pyarrow.table({'n': [7]})", pool)
        assert %{"x" => [%Arrow{}]} = evaluate("{'x': [#{frame}]}", pool)
      end

      assert evaluate("pandas.Series([1, None])", pool) == %{"result" => [1, nil]}

      assert {:error, %Error{reason: :invalid_result, message: message}} =
               Snakepit.execute(
                 "evaluate",
                 %{code: "[pandas.DataFrame([[1, 2]], columns=['a', 'a'])]"},
                 pool: pool
               )

      assert message =~ "result[0] has two columns that are named 'a'; rename one"
    end

    if way[:server] do
      test "a reader is streamed batch by batch, in async commands too", %{pool: pool} do
        for command <- ["stream_batches", "stream_batches_async"] do
          chunks = Enum.to_list(Snakepit.stream(command, %{rows: 10, batch: 4}, pool: pool))
          tables = for %{"batch" => %Arrow{} = table} <- chunks, do: table

          for {table, wanted} <- Enum.zip(tables, ["range(0, 4)", "range(4, 8)", "range(8, 10)"]),
              do: arrives!(table, "pyarrow.table({'n': #{wanted}})", pool)

          assert length(tables) == 3
        end
      end
    end

    test "an invalid table, or a tensor that numpy does not accept, is refused without the end of the worker",
         %{pool: pool} do
      pid = evaluate("os.getpid()", pool)

      for data <- ["", "no table", <<0xFFFFFFFF::32, 9::little-32, "no table">>] do
        assert {:error, %Error{reason: :invalid_args, message: message}} =
                 Snakepit.execute("describe", %{value: [%Arrow{data: data}]}, pool: pool)

        assert message =~ "has an Arrow table that is not a valid stream of Arrow IPC"
      end

      # More dimensions than numpy arrays may have.
      tensor = Snakepit.Tensor.new(<<0>>, :uint8, List.to_tuple(List.duplicate(1, 65)))

      for value <- [tensor, [%{"t" => tensor}]] do
        assert {:error, %Error{reason: :invalid_args, message: message}} =
                 Snakepit.execute("describe", %{value: value}, pool: pool)

        assert message =~ "has a tensor that numpy does not accept"
      end

      assert {:error, %Error{reason: :invalid_args, message: message}} =
               Snakepit.execute("describe", %{value: [%Arrow{data: :none}]}, pool: pool)

      assert message =~
               "args.value[0] is not a valid Arrow table: create it with Snakepit.Arrow.new"

      assert {:error, %Error{reason: :python_error, details: %{type: "TypeError"}} = error} =
               Snakepit.execute("evaluate", %{code: "snakepit_bridge.arrow([1])"}, pool: pool)

      assert error.message =~ "arrow() takes a pandas or polars frame or series"
      assert evaluate("os.getpid()", pool) == pid
    end

    test "a table above the message limit is an error in both directions" do
      pool = start_pool!(pool_options(max_message_size: 100_000))
      table = table!("pyarrow.table({'n': range(1000)})", pool)
      # Its content is not checked before it is sent.
      large = %Arrow{data: table.data <> :binary.copy(<<0>>, 100_000)}

      for {command, args} <- [
            {"describe", %{value: large}},
            {"evaluate", %{code: "snakepit_bridge.arrow(pyarrow.table({'n': range(20_000)}))"}}
          ] do
        assert {:error, %Error{reason: :message_too_large, message: message}} =
                 Snakepit.execute(command, args, pool: pool)

        assert message =~ "100000"
        assert message =~ "max_message_size"
      end

      arrives!(table, "pyarrow.table({'n': range(1000)})", pool)
    end

    test "an Explorer data frame is converted to a table automatically", %{pool: pool} do
      table = table!("pyarrow.table({'n': [7]})", pool)
      frame = Arrow.to_explorer(table)
      assert %{__struct__: Explorer.DataFrame} = frame
      assert %Arrow{} = again = Arrow.from_explorer(frame)
      arrives!(again, "pyarrow.table({'n': [7]})", pool)
      arrives!(frame, "pyarrow.table({'n': [7]})", pool)
      assert_raise ArgumentError, fn -> Arrow.from_explorer(%{}) end
      assert_raise ArgumentError, fn -> Arrow.to_explorer(%{}) end
    end

    test "a table is made only from an Arrow IPC stream", %{pool: pool} do
      table = table!("pyarrow.table({'n': [7]})", pool)
      assert Arrow.new(table.data) == table
      assert inspect(table) == "#Snakepit.Arrow<#{byte_size(table.data)} bytes>"
      assert_raise Error, ~r/write it as a stream/, fn -> Arrow.new("ARROW1\0\0") end
      assert_raise Error, ~r/is not a stream in Arrow's IPC format/, fn -> Arrow.new("a,b") end
      assert_raise ArgumentError, fn -> Arrow.new(nil) end
    end
  end
end
