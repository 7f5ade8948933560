for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "InitOver#{kind}Test") do
    # `adapter_args: [init: ...]`, the keyword arguments of the class: which values they support,
    # what is refused, and that nothing shows them.
    use ExUnit.Case, async: true

    import ExUnit.CaptureLog
    import Snakepit.Test.Pools

    alias Snakepit.Error

    @way way
    @secret "s3cret-of-the-model"

    defp options(class, args, more \\ []) do
      args = [class: "init_commands:#{class}", paths: ["test/support/python"]] ++ args
      [adapter_args: args] ++ @way ++ more
    end

    defp run(pool, command, args \\ %{}) do
      {:ok, result} = Snakepit.execute(command, args, pool: pool)
      Map.get(result, "result", result)
    end

    defp refused(adapter_args) do
      name = :"refused#{System.unique_integer([:positive])}"
      start = Snakepit.Pool.start_link([name: name, size: 1, adapter_args: adapter_args] ++ @way)
      assert {:error, %Error{reason: :invalid_options, message: message} = error} = start
      refute inspect(error) =~ @secret
      message
    end

    defp start_error(class, args) do
      pool = start_pool_unready!(options(class, args))
      assert {:error, %Error{reason: :worker_start_failed} = error} = await_ready(pool)
      refute inspect(error) =~ @secret
      error.message
    end

    test "init arguments carry any value, to every worker that starts" do
      values = %{
        text: "grüße",
        bytes: Snakepit.bytes(<<0, 255>>),
        none: nil,
        huge: Integer.pow(7, 400),
        float: 1.5,
        nested: %{"a" => [1, %{"b" => nil, "c" => [true, "x"]}]},
        tensor: Snakepit.Tensor.from_list([1, 2], :uint16),
        large: String.duplicate("x", 3_000_000)
      }

      types = %{
        text: "str",
        bytes: "bytes",
        none: "NoneType",
        huge: "int",
        float: "float",
        nested: "dict",
        tensor: "ndarray",
        large: "str"
      }

      pool = start_pool!(options(:Anything, [init: values], size: 2, max_concurrency: 2))

      check = fn ->
        for {name, value} <- values do
          type = types[name]
          wanted = with %Snakepit.Bytes{data: data} <- value, do: data

          assert %{"type" => ^type, "value" => ^wanted} = run(pool, "given_as", %{name: name})
        end
      end

      check.()

      for _ <- 1..2 do
        capture_log(fn ->
          assert {:error, %Error{reason: :worker_crashed}} =
                   Snakepit.execute("die", %{}, pool: pool)

          :ok = await_ready(pool)
        end)

        check.()
      end
    end

    test "init arguments may be a keyword list, have string keys, or be absent" do
      assert run(start_pool!(options(:Anything, init: [b: 1, a: 2])), "names") == ["a", "b"]
      assert run(start_pool!(options(:Anything, init: %{"c" => 1})), "names") == ["c"]
      assert run(start_pool!(options(:Anything, init: %{})), "names") == []
      assert run(start_pool!(options(:Plain, init: %{})), "ping") == "pong"
      assert run(start_pool!(options(:Plain, [])), "ping") == "pong"
    end

    test "init arguments are converted by the annotations of __init__" do
      pool = start_pool!(options(:Sized, init: %{model: "small", size: %{width: 3}}))
      assert %{"model" => "small", "size" => %{"width" => 3, "height" => 1}} = run(pool, "sized")
    end

    test "a worker whose __init__ does not take its arguments does not start, and says so" do
      message = start_error(:Sized, init: %{modle: @secret})
      assert message =~ "unknown modle (did you mean model?)"
      assert message =~ "missing model"
      assert message =~ "Sized(model: str, size: Optional[Size] = None)"
      assert message =~ "adapter_args: [init: ...]"
      refute message =~ "Traceback"

      message = start_error(:Sized, init: %{model: "small", size: %{width: @secret}})
      assert message =~ "of the wrong type size.width"

      assert start_error(:Sized, []) =~ "missing a required argument: 'model'"
      assert start_error(:Plain, init: %{model: @secret}) =~ "unknown model: the class is Plain()"
    end

    test "init arguments that are invalid or cannot be sent are refused when the pool starts" do
      class = [class: "init_commands:Anything", paths: ["test/support/python"]]
      message = refused(class ++ [init: %{a: [%{b: self()}], password: @secret}])
      assert message =~ "init.a[0].b is a pid"

      for init <- [@secret, [1, @secret], %{1 => @secret}, %URI{host: @secret}, nil] do
        assert refused(class ++ [init: init]) =~ "init: %{name: value}"
      end

      assert refused(init: %{a: @secret}) =~ "no `class:`"
      assert refused(class ++ [innit: %{a: @secret}]) =~ ":innit"
      assert refused(%{init: %{a: @secret}}) =~ "a keyword list"
    end

    test "no error, log or inspected term shows init arguments" do
      options = options(:Anything, init: %{password: @secret})
      refute inspect(Snakepit.Pool.child_spec(options)) =~ @secret
      pool = start_pool!(options)
      seen = run(pool, "seen_from_outside")
      for {_what, bytes} <- seen, do: refute(bytes =~ @secret)
      assert seen["stdin"] == ""
      assert run(pool, "given_as", %{name: "password"})["value"] == @secret

      {:ok, %{manager: manager}} = Snakepit.Pool.Registry.fetch(pool)

      for pid <- [manager | worker_pids(pool)],
          do: refute(inspect(:sys.get_status(pid)) =~ @secret)

      [{_id, supervisor, _, _}] =
        for {{Snakepit.Pool, ^pool}, _, _, _} = child <-
              Supervisor.which_children(ExUnit.fetch_test_supervisor() |> elem(1)),
            do: child

      refute inspect(:sys.get_state(supervisor)) =~ @secret

      log =
        capture_log(fn ->
          for pid <- [manager | worker_pids(pool)], do: Process.exit(pid, :kill)
          eventually(fn -> match?({:ok, _}, Snakepit.execute("names", %{}, pool: pool)) end)
        end)

      refute log =~ @secret
    end
  end
end
