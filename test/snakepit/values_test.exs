for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "ValuesOver#{kind}Test") do
    use ExUnit.Case, async: true

    import Snakepit.Test.Guide
    import Snakepit.Test.Pools

    alias Snakepit.{Error, Tensor}
    alias Snakepit.Test.Structs.{Account, Broken, Point, Unknown, User}

    @way way
    @python Path.expand("../support/python", __DIR__)

    setup_all do
      %{pool: start_pool!(pool_options())}
    end

    defp pool_options(more \\ []) do
      [adapter_args: [class: "value_commands:ValueCommands", paths: [@python]]] ++ @way ++ more
    end

    defp value(code), do: code |> Code.eval_string() |> elem(0)

    test "Elixir to Python and back follows the guide", %{pool: pool} do
      rows = rows("Elixir to Python, and back")
      assert length(rows) > 30

      for [elixir, python, back] <- rows do
        args = %{value: value(elixir), code: python}
        assert {:ok, answer} = Snakepit.execute("arrives_as", args, pool: pool)
        assert answer["arrived"] == answer["wanted"], elixir
        assert answer["value"] === value(back), elixir
      end
    end

    test "Python to Elixir follows the guide", %{pool: pool} do
      rows = rows("Python to Elixir")
      assert length(rows) > 100

      for [python, elixir] <- rows do
        wanted = value(elixir)

        # At the top and nested.
        for {code, wanted} <- [{python, wanted}, {"{'x': [#{python}]}", %{"x" => [wanted]}}],
            command <- ["evaluate", "evaluate_async"] do
          assert {:ok, result} = Snakepit.execute(command, %{code: code}, pool: pool)

          assert result === %{"result" => wanted} or result === wanted,
                 "#{code} of #{command}: #{inspect(result)}"
        end
      end
    end

    test "values that Python cannot send are refused as in the guide", %{pool: pool} do
      rows = rows("What Python cannot send")
      assert length(rows) > 10

      for [python, "result" <> problem] <- rows,
          {code, place} <- [{python, "result"}, {"{'x': [#{python}]}", "result.x[0]"}] do
        assert {:error, %Error{reason: :invalid_result, message: message}} =
                 Snakepit.execute("evaluate", %{code: code}, pool: pool)

        assert message == place <> problem
      end
    end

    if way[:server] do
      test "chunks are values like any other", %{pool: pool} do
        code =
          "[b'\\xff', '123', float('nan'), numpy.zeros(2, 'uint8'), Upper(a=1), {Level.HIGH: None}, " <>
            "pandas.Series([1], ['a']), numpy.datetime64('NaT')]"

        value =
          [<<255>>, "123", :nan, Tensor.new(<<0, 0>>, :uint8, {2})] ++
            [%{"A" => 1}, %{"3" => nil}, %{"index" => ["a"], "0" => [1]}, nil]

        assert Enum.to_list(Snakepit.stream("stream_values", %{code: code}, pool: pool)) ==
                 for(is_final <- [false, true], do: %{"value" => value, "is_final" => is_final})
      end

      test "an invalid argument of a stream is refused with its place, too", %{pool: pool} do
        assert_raise Error, ~r/args.x\[1\] is a %/, fn ->
          "ping_stream" |> Snakepit.stream(%{x: [1, %Unknown{}]}, pool: pool) |> Stream.run()
        end
      end
    end

    test "text is never mistaken for anything else", %{pool: pool} do
      args = %{
        "a" => "null",
        "b" => "[1]",
        "c" => "\"",
        "d" => "NaN",
        "e" => ~S({"$snakepit":["bytes",0,0]}),
        "f" => %{"$snakepit" => ["bytes", 0, 0], "x" => [<<255>>]},
        "g" => [%{"$snakepit" => "x"}]
      }

      assert Snakepit.execute("echo", args, pool: pool) == {:ok, args}
    end

    describe "structs" do
      test "become what the protocol says, at any depth", %{pool: pool} do
        args = %{
          a: %Point{x: 1, y: 2},
          b: [{:user, %User{name: "Ada", password: "secret"}}],
          c: [user: %Account{id: 7, password: "secret"}],
          d: MapSet.new([~D[2026-01-01]])
        }

        assert Snakepit.execute("echo", args, pool: pool) ==
                 {:ok,
                  %{
                    "a" => %{"at" => [1, 2], "on" => "2026-01-01"},
                    "b" => %{"user" => %{"name" => "Ada"}},
                    "c" => %{"user" => %{"id" => 7}},
                    "d" => ["2026-01-01"]
                  }}
      end

      test "without an implementation are refused with their place", %{pool: pool} do
        for {args, path} <- [
              {%{a: [%{b: %Unknown{}}]}, "args.a[0].b"},
              {[x: {1, %Unknown{}}], "args.x[1]"},
              {%{a: [x: %Unknown{}]}, "args.a.x"}
            ] do
          assert {:error, %Error{reason: :invalid_args, message: message, pool: ^pool}} =
                   Snakepit.execute("echo", args, pool: pool)

          assert message =~ "#{path} is a %Snakepit.Test.Structs.Unknown{}"
          assert message =~ "Snakepit.Encoder"
        end
      end

      test "whose encoder fails are refused with their place, and nothing is raised", %{
        pool: pool
      } do
        for {how, problem} <- [
              {:raise, "and its encoder raised RuntimeError: no such row"},
              {:error, "and its encoder raised Snakepit.Error: timeout: too late"},
              {:bytes, "and its encoder raised RuntimeError: <<255>>"},
              {:throw, "and its encoder threw :ball"},
              {:exit, "and its encoder exited: shutdown"}
            ],
            call <- calls(pool) do
          assert {:error, %Error{reason: :invalid_args, message: message}} =
                   call.(%{a: [1, %{b: %Broken{how: how}}]})

          assert message == "args.a[1].b is a %Snakepit.Test.Structs.Broken{}, #{problem}"
        end

        for {struct, problem} <- [
              {%Broken{how: :endless}, "is nested deeper than 128 levels"},
              {%Broken{how: &inspect/1}, "args.x is a fun"},
              # A map that merely calls itself one.
              {%{__struct__: Date}, "args.x is a %Date{}, and its encoder raised "},
              {%{__struct__: Nx.Tensor}, "args.x is a %Nx.Tensor{}, and its encoder raised "},
              {%{__struct__: Decimal}, "args.x is a %Decimal{}, and its encoder raised "},
              {%{__struct__: :nothing}, "args.x is a %:nothing{}; implement Snakepit.Encoder"}
            ],
            call <- calls(pool) do
          assert {:error, %Error{reason: :invalid_args, message: message}} = call.(%{x: struct})
          assert message =~ problem
        end
      end

      # Each way to call a command with arguments; a stream raises its error.
      defp calls(pool) do
        streams = [
          &Snakepit.execute_stream("ping_stream", &1, fn _ -> :ok end, pool: pool),
          &Snakepit.execute_in_session_stream("s", "ping_stream", &1, fn _ -> :ok end, pool: pool),
          &Snakepit.start_stream("ping_stream", &1, pool: pool),
          fn args ->
            try do
              Stream.run(Snakepit.stream("ping_stream", args, pool: pool))
            rescue
              error in Error -> {:error, error}
            end
          end
        ]

        [
          &Snakepit.execute("echo", &1, pool: pool),
          (&Snakepit.execute_in_session("s", "echo", &1, pool: pool))
          | if(@way[:server], do: streams, else: [])
        ]
      end

      test "in large arguments", %{pool: pool} do
        list = List.duplicate(~D[2026-01-01], 50_000)
        dates = List.duplicate("2026-01-01", 50_000)
        assert {:ok, %{"x" => ^dates}} = Snakepit.execute("echo", %{x: list}, pool: pool)
      end
    end

    # Where a value is shared and not copied, sent apart from the rest, cut into frames, decoded on another thread.
    test "values of every size come back unchanged, alone and beside others", %{pool: pool} do
      around = for kib <- [4, 16, 32, 64, 256, 1024], more <- -1..1, do: kib * 1024 + more

      for size <- around ++ [16 * 1024 * 1024 + 1] do
        data = <<255>> <> :binary.copy(<<size::16>>, div(size, 2))
        text = String.duplicate("x", size)
        same = &assert Snakepit.execute("echo", &1, pool: pool, timeout: :infinity) == {:ok, &1}
        same.(%{"data" => binary_part(data, 0, size)})
        same.(%{"a" => "first", "data" => data, "text" => text, "z" => %{"nested" => data}})
      end
    end

    test "two keys with the same text are refused, wherever they are", %{pool: pool} do
      for args <- [
            %{"a" => 1, a: 2},
            [a: 1, a: 2],
            %{x: [%{"a" => 1, a: 2}]},
            %{x: [a: 1, a: 2]},
            %{x: %{1 => 1, "1" => 2}}
          ] do
        assert {:error, %Error{reason: :invalid_args, message: message}} =
                 Snakepit.execute("echo", args, pool: pool)

        assert message =~ "two keys"
      end

      assert {:error, %Error{reason: :invalid_result, message: message}} =
               Snakepit.execute("evaluate", %{code: "[{1: 2, '1': 3}]"}, pool: pool)

      assert message =~ ~s("1" twice)
    end

    test "bytes arrive as a view if the command asks for one", %{pool: pool} do
      for data <- [<<255, 254, 253, 252>>, "text", ""] do
        half = binary_part(data, 0, div(byte_size(data), 2))

        assert {:ok, %{"type" => "memoryview", "half" => ^half}} =
                 Snakepit.execute("view", %{data: data}, pool: pool)
      end
    end

    test "a value that cannot be sent from Python is named by place and type", %{pool: pool} do
      for {code, problem} <- [
            {"{'items': [1, {'model': Opaque()}]}",
             "result.items[1].model is of type value_commands.Opaque"},
            {"[1j]", "result[0] is of type complex"},
            {"{'a b': object()}", "result['a b'] is of type object"},
            {"numpy.array([None, 1j])", "result[1] is of type complex"},
            {"numpy.zeros(2, ml_dtypes.int4)", "result is a numpy array of dtype int4"},
            {"['\\ud800']", "result[0] has a lone surrogate"}
          ] do
        assert {:error, %Error{reason: :invalid_result, message: message}} =
                 Snakepit.execute("evaluate", %{code: code}, pool: pool)

        assert message =~ problem
      end
    end

    test "with unencodable: :marker a map with its type takes its place" do
      pool = start_pool!(pool_options(unencodable: :marker))

      code =
        "{'a': [1, Opaque(), b'\\xff'], 'b': numpy.array([1], 'm8[M]'), 'c': 1j, " <>
          "'d': [pyarrow.table([[1], [2]], ['a', 'a'])]}"

      assert Snakepit.execute("evaluate", %{code: code}, pool: pool) ==
               {:ok,
                %{
                  "a" => [1, %{"$unencodable" => "value_commands.Opaque"}, <<255>>],
                  "b" => %{"$unencodable" => "numpy.ndarray"},
                  "c" => %{"$unencodable" => "complex"},
                  "d" => [%{"$unencodable" => "pyarrow.lib.Table"}]
                }}
    end

    test "a registered encoder determines what is sent", %{pool: pool} do
      assert {:ok, %{"result" => [%{"amount" => 5}]}} =
               Snakepit.execute("evaluate", %{code: "[Money(5)]"}, pool: pool)
    end

    describe "tensors" do
      test "of every dtype and shape come back unchanged", %{pool: pool} do
        for {dtype, size} <- Tensor.Elements.sizes(),
            shape <- [{}, {3}, {2, 3}, {1, 2, 3}, {0}, {2, 0}] do
          count = shape |> Tuple.to_list() |> Enum.product()
          tensor = Tensor.new(:binary.copy(<<1>>, count * size), dtype, shape)
          args = %{"top" => tensor, "nested" => [%{"x" => [tensor, tensor]}]}
          assert Snakepit.execute("echo", args, pool: pool) == {:ok, args}
        end
      end

      test "arrive as read-only arrays", %{pool: pool} do
        tensor = Tensor.new(<<1.5::float-32-little>>, :float32, {1})

        assert {:ok, %{"result" => "ndarray array([1.5], dtype=float32)"}} =
                 Snakepit.execute("describe", %{value: tensor}, pool: pool)
      end

      test "of the wrong size are refused when they are created" do
        assert_raise Error, ~r/does not have 3 bytes/, fn ->
          Tensor.new(<<1, 2, 3>>, :uint8, {2, 2})
        end
      end

      test "of Nx are sent unchanged, or refused with their place", %{pool: pool} do
        tensor = <<1.5::float-32>> |> Nx.from_binary({:bf, 16}) |> Nx.reshape({2, 1})
        ours = Tensor.from_nx(tensor)
        assert Snakepit.execute("echo", %{x: [tensor]}, pool: pool) == {:ok, %{"x" => [ours]}}

        for call <- calls(pool) do
          assert {:error, %Error{reason: :invalid_args, message: message}} =
                   call.(%{x: [tensor, Nx.rename(tensor, [:a, :b])]})

          assert message ==
                   "args.x[1] is an Nx tensor with the axis names [:a, :b], which numpy arrays do " <>
                     "not have; send Nx.rename(tensor, [nil, nil])"

          assert {:error, %Error{reason: :invalid_args, message: message}} =
                   call.(%{x: %{tensor | type: {:s, 4}}})

          assert message =~ "args.x is an Nx tensor with the type {:s, 4}"
        end
      end

      test "built by hand and invalid are refused", %{pool: pool} do
        tensor = %Tensor{data: <<1>>, dtype: :float32, shape: {2}}

        assert {:error,
                %Error{reason: :invalid_args, message: "args.x is not a valid tensor" <> _}} =
                 Snakepit.execute("echo", %{x: tensor}, pool: pool)
      end
    end
  end
end
