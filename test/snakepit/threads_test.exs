for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "ThreadsOver#{kind}Test") do
    # Which thread runs what, and what belongs to it: as in a script if one command runs at a
    # time.
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @moduletag :tmp_dir
    @way way
    @streams kind != :Stdio
    @args [class: "thread_commands:ThreadCommands", paths: ["test/support/python"]]

    defp pool!(options \\ []), do: start_pool!([adapter_args: @args] ++ @way ++ options)

    defp run(pool, command, args \\ %{}) do
      {:ok, result} = Snakepit.execute(command, args, pool: pool)
      Map.get(result, "result", result)
    end

    test "one command at a time runs in the main thread, where the adapter was created", %{
      tmp_dir: dir
    } do
      pool = pool!()
      assert %{"main" => true, "same" => true} = run(pool, "thread")
      assert run(pool, "note", %{note: "a"}) == ["a"]
      assert run(pool, "note", %{note: "b"}) == ["a", "b"]
      assert run(pool, "local_value") == "of the thread"
      assert %{"main" => false, "thread" => "snakepit-asyncio"} = run(pool, "thread_async")
      assert run(pool, "own_loop") == 42

      if @streams do
        chunks = "thread_stream" |> Snakepit.stream(%{steps: 3}, pool: pool) |> Enum.to_list()
        assert [%{"main" => true, "same" => true} | _] = chunks
        assert length(chunks) == 3
        assert Enum.uniq(chunks) |> length() == 1
      end

      closing = Path.join(dir, "closing")
      run(pool, "announce_close", %{path: closing})
      :ok = stop_supervised({Snakepit.Pool, pool})
      assert lines(closing) == ["closed in the same thread: True"]
    end

    test "several commands at a time run in their own threads, and the adapter is closed in the main thread",
         %{tmp_dir: dir} do
      pool = pool!(max_concurrency: 2)
      assert %{"main" => false, "same" => false} = run(pool, "thread")
      closing = Path.join(dir, "closing")
      run(pool, "announce_close", %{path: closing})
      :ok = stop_supervised({Snakepit.Pool, pool})
      assert lines(closing) == ["closed in the same thread: True"]
    end

    test "signals and timers work as in a script", %{tmp_dir: dir} do
      pool = pool!()
      assert run(pool, "alarm") == "too late"
      # A handler runs even if no command does.
      path = Path.join(dir, "rang")
      run(pool, "alarm_later", %{path: path})
      eventually(fn -> lines(path) == ["rang"] end)
      assert %{"main" => true} = run(pool, "thread")
    end

    test "a handler that fails outside a call is logged, and calls continue", %{tmp_dir: dir} do
      pool = pool!()
      path = Path.join(dir, "rang")
      Snakepit.Test.Log.follow(pool)
      run(pool, "alarm_later", %{path: path, fails: true})
      assert Snakepit.Test.Log.await(pool, "outside of any call")
      assert %{"main" => true} = run(pool, "thread")
    end

    test "a command's own handler for SIGTERM runs, and calls finish nevertheless", %{
      tmp_dir: dir
    } do
      pool = pool!()
      path = Path.join(dir, "caught")
      run(pool, "catch_sigterm", %{path: path})
      assert_drains(pool, dir)
      assert "caught SIGTERM" in lines(path)
    end

    test "SIGTERM lets a command in the main thread finish", %{tmp_dir: dir} do
      assert_drains(pool!(), dir)
    end

    test "an event loop that a command has run disables no signal", %{tmp_dir: dir} do
      # SIGTERM and SIGINT, SIGUSR1.
      for {numbers, n} <- Enum.with_index([[15, 2], [10], [15, 10]]) do
        pool = pool!()
        run(pool, "loop_with_handlers", %{numbers: numbers})
        dir = Path.join(dir, "#{n}")
        File.mkdir_p!(dir)
        assert_drains(pool, dir)
      end
    end

    # A worker that gets SIGTERM finishes its call, closes its adapter and is replaced.
    defp assert_drains(pool, dir) do
      [closing, started, until] = for name <- ~w(closing started until), do: Path.join(dir, name)
      os_pid = run(pool, "announce_close", %{path: closing})

      held = Task.async(fn -> run(pool, "hold", %{started: started, until: until}) end)
      eventually(fn -> lines(started) == ["started"] end)
      signal("TERM", os_pid)
      eventually(fn -> draining?(pool) end)
      File.touch!(until)
      assert await(held) == "held"
      eventually(fn -> lines(closing) == ["closed in the same thread: True"] end)
      eventually(fn -> not alive?(os_pid) end)
      assert %{"main" => true} = run(pool, "thread")
    end

    defp draining?(pool) do
      {:ok, workers} = Snakepit.list_workers(pool)
      not Enum.any?(workers, &(&1.state in [:ready, :busy]))
    end

    test "SIGTERM while no command runs stops the worker in an orderly way", %{tmp_dir: dir} do
      pool = pool!()
      closing = Path.join(dir, "closing")
      os_pid = run(pool, "announce_close", %{path: closing})
      signal("TERM", os_pid)
      eventually(fn -> lines(closing) == ["closed in the same thread: True"] end)
    end

    test "KeyboardInterrupt and SystemExit end their call" do
      pool = pool!()

      for {how, type} <- [interrupt: "KeyboardInterrupt", exit: "SystemExit"] do
        assert {:error, %Error{reason: :python_error, details: %{type: ^type}}} =
                 Snakepit.execute("stop_by", %{how: how}, pool: pool)
      end

      assert %{"main" => true} = run(pool, "thread")
    end

    test "a child that a command forks has its own signals" do
      pool = pool!()
      # grpcio does not survive a fork.
      unless @way[:server] == :grpcio do
        assert run(pool, "forked_child_is_terminated") == 15
        assert %{"main" => true} = run(pool, "thread")
      end
    end

    for concurrency <- [1, 2] do
      test "variables that a call sets are gone in the next call, #{concurrency} at a time" do
        pool = pool!(max_concurrency: unquote(concurrency))
        ours = %{"colour" => "blue", "prec" => 50}

        for command <- ~w(variables variables_async variables variables_async) do
          assert run(pool, command, %{change: true}) == ours, command
        end

        if @streams do
          for command <- ~w(variables_stream variables_stream_async), _ <- 1..2 do
            chunks = command |> Snakepit.stream(%{steps: 3}, pool: pool) |> Enum.to_list()
            [first | rest] = for chunk <- chunks, do: Map.delete(chunk, "is_final")

            assert {^ours, [%{"colour" => "red 0", "prec" => 2}, %{"colour" => "red 1"}]} =
                     {first, rest}
          end
        end

        assert run(pool, "variables") == ours
        assert run(pool, "errstate", %{change: true}) == "warn"
        assert run(pool, "errstate") == "warn"
      end
    end
  end
end
