for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "HooksOver#{kind}Test") do
    # What an adapter's hooks receive, when and in which thread they run, and what happens when
    # they fail.
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @moduletag :tmp_dir
    @way way
    @streams kind != :Stdio

    setup %{tmp_dir: dir}, do: %{log: Path.join(dir, "log")}

    defp options(class, log, options) do
      args = [class: "hook_commands:#{class}", paths: ["test/support/python"]]
      [adapter_args: args, env: %{"HOOK_LOG" => log}] ++ @way ++ options
    end

    defp pool!(class, log, options \\ []), do: start_pool!(options(class, log, options))

    defp run(pool, command, args \\ %{}, options \\ []) do
      {:ok, result} = Snakepit.execute(command, args, [pool: pool] ++ options)
      Map.get(result, "result", result)
    end

    defp add(pool, id, text, command \\ "add"),
      do: run(pool, command, %{text: text}, session_id: id)["texts"]

    defp logged(log, line), do: eventually(fn -> line in lines(log) end)

    for {class, thread} <- [Plain: "main", Async: "snakepit-asyncio"], concurrency <- [1, 4] do
      test "#{class}: start, session_ended and close, #{concurrency} at a time", %{
        log: log
      } do
        thread = unquote(thread)
        pool = pool!(unquote(class), log, max_concurrency: unquote(concurrency))
        assert lines(log) == ["start in #{thread}"]
        # Its settings are visible to all calls.
        for command <- ~w(ping ping_async), do: assert(run(pool, command)["phase"] == "started")

        assert add(pool, "a", "1") == ["1"]
        assert add(pool, "a", "2", "add_async") == ["1", "2"]
        assert add(pool, "b", "3") == ["3"]

        if @streams do
          options = [pool: pool, session_id: "b"]
          assert [_] = "add_stream" |> Snakepit.stream(%{text: "4"}, options) |> Enum.to_list()
        else
          add(pool, "b", "4")
        end

        :ok = Snakepit.end_session("a", pool: pool)
        logged(log, ~s(ended a ['1', '2'] in #{thread}))
        # The hook also runs for a session that keeps nothing in its dict.
        run(pool, "only_its_id", %{}, session_id: "c")
        :ok = stop_supervised({Snakepit.Pool, pool})

        rest = log |> lines() |> Enum.drop_while(&(&1 != "only c")) |> tl()
        {ends, last} = Enum.split(rest, 2)
        assert ends == ["ended b ['3', '4'] in #{thread}", "ended c None in #{thread}"]

        assert last ==
                 if(unquote(class) == :Plain,
                   do: ["close in main"],
                   else: ["close in snakepit-asyncio, same loop: True", "task ended"]
                 )
      end
    end

    test "a session begins anew only after the hook has run for the old one", %{log: log} do
      pool = pool!(:Plain, log)

      for n <- 1..20, command = Enum.at(~w(add add_async), rem(n, 2)) do
        assert add(pool, "s", "#{n}", command) == ["#{n}"]
        :ok = Snakepit.end_session("s", pool: pool)
      end

      logged(log, "ended s ['20'] in main")

      assert tl(lines(log)) ==
               Enum.flat_map(1..20, &["add #{&1}", "ended s ['#{&1}'] in main"])
    end

    test "the hook runs after the session's last call, and during none of its calls", %{
      log: log,
      tmp_dir: dir
    } do
      pool = pool!(:Plain, log, max_concurrency: 2)
      until = Path.join(dir, "until")
      args = [%{until: until}, [session_id: "s"]]
      held = Task.async(fn -> apply(__MODULE__, :hold, [pool | args]) end)
      logged(log, "hold")
      :ok = Snakepit.end_session("s", pool: pool)
      assert add(pool, "other", "1") == ["1"]
      refute Enum.any?(lines(log), &(&1 =~ "ended s"))
      File.touch!(until)
      assert await(held) == "held"
      logged(log, "ended s ['held'] in main")

      assert Enum.filter(lines(log), &(&1 =~ "held")) == ["held", "ended s ['held'] in main"]
    end

    def hold(pool, args, options), do: run(pool, "hold", args, options)

    test "the hook runs for sessions that expire or make room for others", %{log: log} do
      pool = pool!(:Plain, log, max_sessions: 2)
      for {id, n} <- [{"a", 1}, {"b", 2}, {"c", 3}], do: add(pool, id, "#{n}")
      logged(log, "ended a ['1'] in main")

      pool = pool!(:Plain, log, session_ttl: 50)
      add(pool, "short", "4")
      logged(log, "ended short ['4'] in main")
    end

    test "a hook that fails is logged, and nothing else is lost", %{log: log} do
      pool = pool!(:Failing, log)
      Snakepit.Test.Log.follow(pool)

      for id <- ~w(a exit b) do
        add(pool, id, "1")
        :ok = Snakepit.end_session(id, pool: pool)
        logged(log, "ended #{id}")
      end

      assert Snakepit.Test.Log.await(pool, "RuntimeError: b has failed")
      pid = run(pool, "ping")["pid"]
      add(pool, "last", "1")
      :ok = stop_supervised({Snakepit.Pool, pool})
      assert Enum.take(lines(log), -2) == ["ended last", "close"]
      lines = Snakepit.Test.Log.await(pool, "RuntimeError: close has failed")
      assert Enum.any?(lines, fn {level, text} -> level == :error and text =~ "close failed" end)
      assert not alive?(pid)
    end

    test "an async hook that does not end delays only its own session", %{log: log} do
      pool = pool!(:Waiting, log, shutdown_timeout: 200)
      add(pool, "waits", "1")
      :ok = Snakepit.end_session("waits", pool: pool)
      logged(log, "ended waits")
      pid = run(pool, "ping")["pid"]
      assert add(pool, "other", "1") == ["1"]
      assert add(pool, "other", "2", "add_async") == ["1", "2"]
      :ok = Snakepit.end_session("other", pool: pool)
      logged(log, "ended other")
      assert %{"pid" => ^pid} = run(pool, "ping")
    end

    test "the reason why start failed is the pool's error", %{log: log} do
      for class <- [:FailingStart, :FailingAsyncStart] do
        pool = start_pool_unready!(options(class, log, []))

        assert {:error, %Error{reason: :worker_start_failed, message: message}} =
                 await_ready(pool)

        assert message =~ "OSError: the model is gone"
        assert message =~ "hook_commands:#{class} did not start: its start() raised"
      end
    end

    test "a worker with a hook of the wrong signature does not start, and says so", %{log: log} do
      for {class, wanted} <- [
            NoSession: ["session_ended(self, session_id, session)", "session_ended(session_id"],
            StartWithArguments: ["start(self)", "start(model"],
            YieldingClose: ["close(self)", "yields nothing"]
          ] do
        pool = start_pool_unready!(options(class, log, []))

        assert {:error, %Error{reason: :worker_start_failed, message: message}} =
                 await_ready(pool)

        for text <- wanted, do: assert(message =~ text)
      end
    end

    test "a command may have a hook's name", %{log: log} do
      pool = pool!(:Named, log)
      assert run(pool, "start", %{job: "one"}) == "started one"
    end

    test "close has :shutdown_timeout and no longer", %{log: log} do
      for class <- [:SlowClose, :SlowAsyncClose] do
        pool = pool!(class, log, shutdown_timeout: 1_000)
        Snakepit.Test.Log.follow(pool)
        pid = run(pool, "ping")["pid"]
        :ok = stop_supervised({Snakepit.Pool, pool})
        assert not alive?(pid)
        assert Snakepit.Test.Log.await(pool, "session_ended or close still runs after 1.0 s")
      end

      assert lines(log) == ["close", "close"]
    end
  end
end
