for {kind, way} <- Snakepit.Test.Pools.ways(), kind != :Stdio do
  defmodule Module.concat(Snakepit, "EvalOver#{kind}Test") do
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @way way

    defp interpreter!(options \\ []) do
      start_pool!([adapter_args: [class: "snakepit_bridge:Interpreter"]] ++ @way ++ options)
    end

    defp eval(pool, code, bindings \\ %{}, options \\ []),
      do:
        Snakepit.eval(
          code,
          bindings,
          [pool: pool, on_output: &send(self(), {:out, &1})] ++ options
        )

    # All that the code has printed so far.
    defp printed(text \\ "") do
      receive do
        {:out, more} -> printed(text <> more)
      after
        0 -> text
      end
    end

    test "the value of the last expression is returned, and names are bound" do
      pool = interpreter!()
      assert eval(pool, "import math\nmath.floor(x) + y", %{x: 3.5, y: 2}) == {:ok, 5}
      assert eval(pool, "x = 1") == {:ok, nil}
      assert eval(pool, "") == {:ok, nil}
      assert eval(pool, "'text'") == {:ok, "text"}
      assert eval(pool, "{'a': [data]}", data: <<255>>) == {:ok, %{"a" => [<<255>>]}}
      assert {:ok, %{"is_final" => 1}} = eval(pool, "{'is_final': 1}")

      assert {:error, %Error{reason: :invalid_args, message: message}} =
               eval(pool, "1", %{"a b" => 1})

      assert message =~ "expected bindings with names of Python, got 'a b'"
      assert {:error, %Error{reason: :invalid_result}} = eval(pool, "open('/dev/null')")
    end

    test "names are kept within a session, and end with it" do
      pool = interpreter!()
      a = &eval(pool, &1, %{}, session_id: "a")

      assert a.(
               "def double(n):\n    return 2 * n\nimport sqlite3\ndb = sqlite3.connect(':memory:')"
             ) == {:ok, nil}

      # Other calls do not see them, and an object may be bound to its thread.
      assert {:error, %Error{details: %{type: "NameError"}}} = eval(pool, "double(1)")
      assert a.("db.execute('select 7').fetchone()[0] + double(4)") == {:ok, 15}

      assert {:error, %Error{details: %{type: "NameError"}}} =
               eval(pool, "double(1)", %{}, session_id: "b")

      :ok = Snakepit.end_session("a", pool: pool)
      assert {:error, %Error{details: %{type: "NameError"}}} = a.("double(1)")
    end

    @tag :tmp_dir
    test "what the code prints arrives while it runs", %{tmp_dir: dir} do
      pool = interpreter!()
      test = self()

      task =
        Task.async(fn ->
          # The code waits for a file, which is written once its first line has arrived.
          path = Path.join(dir, "printed")

          on_output = fn text ->
            send(test, {:out, text})
            File.write!(path, "")
          end

          code = """
          import os, sys, time
          print("before")
          while not os.path.exists(path):
              time.sleep(0.01)
          os.remove(path)
          print("after", file=sys.stderr)
          """

          Snakepit.eval(code, %{path: path}, pool: pool, on_output: on_output)
        end)

      assert await(task) == {:ok, nil}
      assert printed() =~ ~r/\Abefore\n.*after\n\z/s
    end

    test "much output waits for its reader, and none is lost" do
      pool = interpreter!()
      code = "for n in range(20_000):\n    print('x' * 99)\nprint('y' * 1_000_000)"
      assert eval(pool, code) == {:ok, nil}
      text = printed()
      assert byte_size(text) == 20_000 * 100 + 1_000_001
      assert String.ends_with?(text, "xx\n" <> String.duplicate("y", 1_000_000) <> "\n")
    end

    test "an exception has the frames of the code alone, with their lines" do
      pool = interpreter!()
      a = &eval(pool, &1, %{}, session_id: "a")
      {:ok, nil} = a.("def fail():\n    raise ValueError('no')")
      assert {:error, %Error{reason: :python_error, details: details} = error} = a.("\n\nfail()")
      assert %{type: "ValueError", message: "no"} = details

      assert [
               %{file: "<eval " <> _, line: 3, function: "<module>", source: "fail()"},
               %{file: "<eval " <> _, line: 2, function: "fail", source: "raise ValueError('no')"}
             ] = details.frames

      refute details.traceback =~ "snakepit_bridge"
      assert Exception.message(error) =~ "raise ValueError('no')"

      assert {:error, %Error{details: %{type: "SyntaxError", traceback: traceback}}} =
               a.("1\n2 +")

      assert traceback =~ "line 2"
      assert {:error, %Error{details: %{type: "SystemExit"}}} = a.("raise SystemExit(3)")
      assert a.("1") == {:ok, 1}
    end

    test "code is interrupted at its deadline, and the worker and its names stay" do
      pool = interpreter!()
      a = &eval(pool, &1, %{}, [session_id: "a"] ++ &2)
      {:ok, worker} = a.("import os\nos.getpid()", [])

      with_time(fn timeout ->
        {:error, %Error{reason: :timeout}} =
          a.("began = True\nwhile True: pass", timeout: timeout)

        if a.("'began' in globals()", []) == {:ok, true}, do: :ok, else: :too_short
      end)

      assert a.("os.getpid()", []) == {:ok, worker}
    end

    test "code ends when its caller is gone, even if it prints without end" do
      pool = interpreter!()
      test = self()

      caller =
        spawn(fn ->
          wait = fn _text ->
            send(test, :printed)
            Process.sleep(:infinity)
          end

          Snakepit.eval("while True: print('x' * 1000)", %{}, pool: pool, on_output: wait)
        end)

      assert_receive :printed
      Process.exit(caller, :kill)
      # It is the pool's only worker.
      assert eval(pool, "1 + 1") == {:ok, 2}
    end

    test "a pool of other commands runs no code, and says how to allow it" do
      for options <- [[], [adapter_args: []]] do
        pool = start_pool!(@way ++ options)
        assert {:error, %Error{reason: :unknown_command} = error} = eval(pool, "1")

        assert Exception.message(error) =~
                 ~s(adapter_args: [class: "snakepit_bridge:Interpreter"])
      end
    end

    test "a class that returns no value is an error" do
      pool =
        start_pool!(
          [adapter_args: [class: "explore:Mute", paths: ["test/support/python"]]] ++ @way
        )

      assert {:error, %Error{reason: :invalid_result, message: message}} = eval(pool, "1 + 1")
      assert message =~ "has ended without a value"
      assert printed() == "1 + 1"
    end

    test "a class of one's own may derive from it" do
      pool =
        start_pool!(
          [adapter_args: [class: "explore:Explore", paths: ["test/support/python"]]] ++ @way
        )

      assert eval(pool, "n + 1", %{n: 1}) == {:ok, 2}

      assert {:ok, %{"result" => "Hello Ada"}} =
               Snakepit.execute("greet", %{name: "Ada"}, pool: pool)
    end
  end
end

defmodule Snakepit.EvalTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Interpreter}

  test "workers over stdin and stdout run no code" do
    pool =
      start_pool!(
        adapter: Snakepit.Adapters.GenericPythonV2,
        adapter_args: [class: "snakepit_bridge:Interpreter"]
      )

    assert {:error, %Error{reason: :streaming_not_supported, message: message}} =
             Snakepit.eval("1", %{}, pool: pool)

    assert message =~ "they use stdin and stdout"
  end

  test "a value is not left to the caller if the stream fails after it" do
    error = %Error{reason: :worker_crashed, message: "gone"}

    failing = fn _command, _args, on_chunk, _options ->
      on_chunk.(%{"value" => 1, "is_final" => true})
      {:error, error}
    end

    assert Interpreter.eval("1", %{}, [], failing) == {:error, error}
    refute_received _
  end

  test "what is no code, and no option, is refused" do
    assert_raise ArgumentError, fn -> Snakepit.eval(:code) end

    assert {:error, %Error{reason: :invalid_options, message: message}} =
             Snakepit.eval("1", %{}, on_output: 1)

    assert message =~ ":on_output must be a function of one argument"
  end
end
