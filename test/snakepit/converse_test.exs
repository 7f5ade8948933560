defmodule Snakepit.ConverseTest do
  # Two-way calls to a server that has only the contract's RPC for them.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.GRPC.Client
  alias Snakepit.Test.Servers

  defmodule Adapter do
    use Snakepit.Test.ServerAdapter, script: "converse_server.py"
  end

  setup_all do
    %{pool: start_server_pool!(Adapter, max_concurrency: 32)}
  end

  defp ask(pool, tool, function, options \\ []) do
    {:ok, %{"answers" => [answer]}} =
      Snakepit.execute("ask", %{tool: tool}, [tools: %{tool => function}, pool: pool] ++ options)

    answer
  end

  describe "a tool" do
    test "gets a map of arguments, and its value is the answer", %{pool: pool} do
      asks = [["add", %{a: 1, b: 2}], ["add", %{a: "x", b: "y"}], ["none", %{}]]
      tools = [add: &[&1["a"], &1["b"]], none: fn %{} -> nil end]

      assert {:ok, %{"answers" => [[1, 2], ["x", "y"], nil], "tools" => names, "max_asks" => 8}} =
               Snakepit.execute("ask", %{asks: asks}, tools: tools, pool: pool)

      assert Enum.sort(names) == ["add", "none"]
    end

    test "returns a value, {:ok, value} or {:error, reason}", %{pool: pool} do
      for {returned, answer} <- [
            {7, 7},
            {{:ok, %{x: [1]}}, %{"x" => [1]}},
            {~D[2026-01-02], "2026-01-02"},
            {{:error, :not_found}, %{"code" => "not_found", "message" => ""}},
            {{:error, "no such user"}, %{"code" => "error", "message" => "no such user"}},
            {{:error, {:taken, "is taken", %{by: 7}}},
             %{"code" => "taken", "message" => "is taken", "data" => %{"by" => 7}}},
            {{:error, %{left: 3}}, %{"code" => "error", "data" => %{"left" => 3}}},
            {{:error, ArgumentError.exception("bad")},
             %{"code" => "exception", "type" => "ArgumentError", "message" => "bad"}},
            {{:error, self()}, %{"code" => "error", "data" => inspect(self())}}
          ] do
        answered = ask(pool, "tool", fn _args -> returned end)

        if is_map(answer) and is_map_key(answer, "code") do
          expected = Map.merge(%{"reason" => "tool_error", "type" => "", "data" => nil}, answer)
          assert Map.delete(answered, "message") == Map.delete(expected, "message")
          assert answered["message"] == Map.get(answer, "message", "")
        else
          assert answered == answer
        end
      end
    end

    test "that raises, throws or exits answers with that, and is logged", %{pool: pool} do
      for {fail, answer} <- [
            {fn -> raise ArgumentError, "bad" end,
             %{"code" => "exception", "type" => "ArgumentError", "message" => "bad"}},
            {fn -> throw(:ball) end, %{"code" => "throw", "message" => ":ball"}},
            {fn -> exit(:gone) end, %{"code" => "exit", "message" => ":gone"}},
            {fn -> Process.exit(self(), :kill) end, %{"code" => "exit"}},
            {fn -> fn -> 1 end end, %{"code" => "unsendable"}}
          ] do
        log =
          capture_log(fn ->
            answered = ask(pool, "tool", fn _args -> fail.() end, request_id: "the-request")
            assert Map.take(answered, Map.keys(answer)) == answer
          end)

        assert log =~ ~s(the tool "tool" of the command "ask" failed [the-request])
      end
    end

    test "runs in a process of its own, which has of the caller what tasks have", %{pool: pool} do
      me = self()
      Logger.metadata(user: 7)

      tool = fn _args ->
        send(
          me,
          {:tool, self(), Process.get(:"$callers"), Logger.metadata(), Process.group_leader()}
        )

        nil
      end

      ask(pool, "tool", tool)
      leader = Process.group_leader()
      assert_receive {:tool, pid, [^me | _], metadata, ^leader}
      assert metadata[:user] == 7
      assert pid != me
      # It has ended when the call has.
      refute Process.alive?(pid)
    end

    test "that takes too long is ended", %{pool: pool} do
      me = self()

      stuck = fn _args ->
        send(me, {:tool, self()})
        Process.sleep(:infinity)
      end

      log =
        capture_log(fn ->
          assert %{"code" => "timeout", "message" => message} =
                   ask(pool, "tool", stuck, tool_timeout: 50)

          assert message =~ "50 ms (:tool_timeout)"
        end)

      assert log =~ "took longer than 50 ms"
      assert_receive {:tool, pid}
      refute Process.alive?(pid)
    end

    test "runs beside others, as many as max_asks allows", %{pool: pool} do
      me = self()

      meet = fn %{"number" => number} ->
        send(me, {:here, self()})
        receive do: (:go -> number)
      end

      task =
        Task.async(fn ->
          Snakepit.execute("ask_at_once", %{tool: "meet", count: 8},
            tools: [meet: meet],
            pool: pool
          )
        end)

      pids = for _ <- 1..8, do: elem(assert_receive({:here, _pid}, patience()), 1)
      for pid <- pids, do: send(pid, :go)
      assert Task.await(task, patience()) == {:ok, %{"answers" => Enum.to_list(1..8)}}
    end

    test "ends when the command no longer waits for it, and when the call has ended", %{
      pool: pool
    } do
      me = self()

      stuck = fn _args ->
        send(me, {:stuck, self()})
        Process.sleep(:infinity)
      end

      # By then the other tool runs.
      until = fn _args ->
        eventually(fn -> Process.info(me, :message_queue_len) == {:message_queue_len, 1} end)
        1
      end

      for command <- ["ask_and_withdraw", "ask_and_return"] do
        tools = [stuck: stuck, until: until]
        args = %{tool: "stuck", until: "until"}
        assert {:ok, _result} = Snakepit.execute(command, args, tools: tools, pool: pool)
        assert_received {:stuck, pid}
        refute Process.alive?(pid)
      end
    end

    test "that is withdrawn again and again only holds up its server", %{pool: pool} do
      tools = [stuck: fn _args -> Process.sleep(:infinity) end, until: fn _args -> 1 end]
      args = %{tool: "stuck", until: "until", count: 1_000}

      assert {:ok, %{"answer" => 1}} =
               Snakepit.execute("ask_and_withdraw_often", args, tools: tools, pool: pool)
    end

    test "ends with its caller, and at the deadline", %{pool: pool} do
      me = self()

      stuck = fn _args ->
        send(me, {:stuck, self()})
        Process.sleep(:infinity)
      end

      options = [tools: [stuck: stuck], pool: pool]
      caller = spawn(fn -> Snakepit.execute("ask", %{tool: "stuck"}, options) end)
      assert_receive {:stuck, pid}, patience()
      Process.exit(caller, :kill)
      eventually(fn -> not Process.alive?(pid) end)

      with_time(fn timeout ->
        assert {:error, %Error{reason: :timeout}} =
                 Snakepit.execute("ask", %{tool: "stuck"}, [timeout: timeout] ++ options)

        receive do
          {:stuck, pid} -> refute Process.alive?(pid)
        after
          0 -> :too_short
        end
      end)
    end

    test "may call the pool, unless that could never be served", %{pool: pool} do
      nested = fn pool, options ->
        fn _args ->
          options = [tools: [inner: fn _ -> 7 end], pool: pool] ++ options

          with {:ok, %{"answers" => [answer]}} <-
                 Snakepit.execute("ask", %{tool: "inner"}, options),
               do: answer
        end
      end

      assert ask(pool, "tool", nested.(pool, [])) == 7

      small = start_server_pool!(Adapter, max_concurrency: 1)

      for options <- [[], [session_id: "s"]] do
        assert %{"code" => "reentrant_call", "type" => "Snakepit.Error", "message" => message} =
                 ask(small, "tool", nested.(small, options), session_id: "s")

        assert message =~ "raise :size or :max_concurrency"
      end

      assert ask(small, "tool", nested.(pool, [])) == 7
    end

    test "is a span", %{pool: pool} do
      me = self()
      names = for name <- [:start, :stop, :exception], do: [:snakepit, :ask, name]

      for [_, _, event] = name <- names do
        handler = {__MODULE__, event}

        handle = fn _name, measurements, metadata, _config ->
          if metadata.request_id =~ "span-", do: send(me, {event, measurements, metadata})
        end

        :ok = :telemetry.attach(handler, name, handle, nil)
        on_exit(fn -> :telemetry.detach(handler) end)
      end

      for {name, outcome, tool, options} <- [
            {:stop, :ok, fn _ -> 1 end, []},
            {:stop, :error, fn _ -> {:error, :no} end, []},
            {:stop, :error, fn _ -> me end, []},
            {:exception, {:error, %RuntimeError{message: "bad"}}, fn _ -> raise "bad" end, []},
            {:exception, {:exit, :timeout}, fn _ -> Process.sleep(:infinity) end,
             [tool_timeout: 20]}
          ] do
        capture_log(fn -> ask(pool, "tool", tool, [request_id: "span-1"] ++ options) end)
        assert_receive {:start, %{monotonic_time: _, system_time: _}, start}, patience()

        assert %{pool: ^pool, command: "ask", tool: "tool", ask_id: 1, session_id: nil} = start
        assert_receive {^name, %{duration: duration}, metadata}, patience()
        assert duration > 0
        assert metadata.telemetry_span_context == start.telemetry_span_context

        if name == :stop,
          do: assert(metadata.outcome == outcome),
          else: assert({metadata.kind, metadata.reason} == outcome)
      end

      tools = [stuck: fn _ -> Process.sleep(:infinity) end, until: fn _ -> 1 end]
      args = %{tool: "stuck", until: "until"}
      options = [tools: tools, pool: pool, request_id: "span-2"]
      assert {:ok, _result} = Snakepit.execute("ask_and_return", args, options)
      assert_receive {:stop, _, %{tool: "stuck", outcome: :cancelled}}, patience()
    end

    test "of the pool comes with those of a call, which count before it" do
      tools = %{"one" => fn _ -> "pool" end, "two" => fn _ -> "pool" end}
      pool = start_server_pool!(Adapter, max_concurrency: 1, tools: tools, tool_timeout: 60_000)
      asks = [["one", %{}], ["two", %{}]]

      for {options, answers} <- [
            {[], ["pool", "pool"]},
            {[tools: [two: fn _ -> 2 end]], ["pool", 2]}
          ] do
        assert {:ok, %{"answers" => ^answers}} =
                 Snakepit.execute("ask", %{asks: asks}, [pool: pool] ++ options)
      end

      assert [{:ok, %{"answers" => ["pool", "pool"]}}] =
               "ask" |> Snakepit.map([%{asks: asks}], pool: pool) |> Enum.to_list()
    end

    test "is checked", %{pool: pool} do
      for tools <- [[lookup: fn -> 1 end], %{1 => & &1}, [:lookup], "lookup", %{"" => & &1}] do
        assert {:error, %Error{reason: :invalid_options, message: message}} =
                 Snakepit.execute("ask", %{}, tools: tools, pool: pool)

        assert message =~
                 ":tools must be a keyword list or map of names, each once, and functions"
      end
    end
  end

  test "a channel has tools and inputs, too" do
    server =
      Servers.start_program!(
        ".venv/bin/python",
        ["-u", "test/support/python/converse_server.py"],
        [
          {"PYTHONPATH", Path.expand("python")},
          {"SNAKEPIT_LISTEN", "tcp:127.0.0.1:0"}
        ]
      )

    {:ok, channel} = Client.connect(server.address)
    options = [tools: [tool: fn args -> args end]]
    args = %{tool: "tool", args: %{a: 1}}
    assert {:ok, %{"answers" => [%{"a" => 1}]}} = Client.execute(channel, "ask", args, options)
    args = %{items: Snakepit.input(1..100)}
    assert {:ok, %{"count" => 100}} = Client.execute(channel, "count", args)
    assert channel |> Client.stream("echo", args) |> Enum.count() == 100

    # Tools run under the application, and all else without it.
    script = """
    alias Snakepit.GRPC.Client
    {:ok, channel} = Client.connect(#{inspect(server.address)})
    {:ok, _} = Client.execute(channel, "count", %{items: Snakepit.input([1])})
    {:error, error} = Client.execute(channel, "ask", %{}, tools: [tool: & &1])
    IO.puts("\#{error.reason}: \#{error.message}")
    """

    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])
    {said, 0} = System.cmd("elixir", paths ++ ["-e", script], stderr_to_stdout: true)

    assert said =~
             "pool_stopped: the application :snakepit, under which tools run, is not started"
  end

  describe "a server that breaks the contract" do
    test "ends its call only", %{pool: pool} do
      tools = [tool: fn _args -> Process.sleep(:infinity) end]

      for {command, args, options, said} <- [
            {"ask_at_once", %{tool: "tool", count: 3}, [max_asks: 2], "asked more often at once"},
            {"ask_twice_by_one_id", %{tool: "tool"}, [], "the id of an ask twice"},
            {"unknown_input", %{}, [], "an input that the call does not have"},
            {"end_without_reply", %{}, [], "without a reply"}
          ] do
        assert {:error, %Error{reason: :rpc_error, message: message}} =
                 Snakepit.execute(command, args, [tools: tools, pool: pool] ++ options)

        assert message =~ said
      end

      # More chunks than two, and more than 1 MiB of them.
      for {demand, size} <- [{2, 0}, {1000, 70_000}] do
        options = [tools: tools, pool: pool, demand: demand]
        slow = fn _chunk -> Process.sleep(50) end

        assert {:error, %Error{reason: :rpc_error, message: message}} =
                 Snakepit.execute_stream("more_than_demanded", %{size: size}, slow, options)

        assert message =~ "more chunks than were asked for"
      end

      assert ask(pool, "tool", fn _args -> 1 end) == 1
    end
  end

  describe "an input" do
    test "is taken in order, whatever its values", %{pool: pool} do
      items = [1, "two", nil, %{three: 3}, [4.5], ~D[2026-01-02]]

      assert {:ok, %{"items" => [1, "two", nil, %{"three" => 3}, [4.5], "2026-01-02"]}} =
               Snakepit.execute("collect", %{items: Snakepit.input(items)}, pool: pool)

      assert {:ok, %{"items" => []}} =
               Snakepit.execute("collect", %{items: Snakepit.input([])}, pool: pool)

      assert {:ok, %{"a" => [1, 2], "b" => ["x"]}} =
               Snakepit.execute(
                 "collect",
                 [a: Snakepit.input(1..2), b: Snakepit.input(["x"], max_items: 1)],
                 pool: pool
               )

      assert {:ok, %{"count" => 10_000}} =
               Snakepit.execute("count", %{items: Snakepit.input(1..10_000)}, pool: pool)

      assert no_messages?()
    end

    test "is halted when nobody takes it any more", %{pool: pool} do
      me = self()

      for args <- [%{count: 3}, %{count: 3, stop: "tool"}] do
        tools = [tool: fn _args -> Process.sleep(20) end]
        items = Snakepit.input(resource(me), max_items: 5)

        assert {:ok, %{"taken" => [1, 2, 3]}} =
                 Snakepit.execute("take", Map.put(args, :items, items), tools: tools, pool: pool)

        assert_received :opened
        assert_received :closed
        # Three were taken, and five could be ahead.
        taken = taken()
        assert taken == Enum.to_list(1..length(taken))
        assert length(taken) in 3..8
        assert no_messages?()
      end
    end

    test "that raises fails in Python, and the caller gets its exception", %{pool: pool} do
      me = self()
      failing = Stream.map(1..10, fn n -> if n == 5, do: raise(ArgumentError, "bad"), else: n end)

      tools = [
        tool: fn %{"error" => error} ->
          send(me, {:error, error})
          nil
        end
      ]

      args = %{items: Snakepit.input(failing), tool: "tool"}
      call = fn -> Snakepit.execute("failing", args, tools: tools, pool: pool) end
      assert_raise ArgumentError, "bad", call
      assert_received {:error, "ArgumentError: bad (input_error)"}

      unsendable = Stream.map(1..101, &if(&1 > 100, do: fn -> 1 end, else: &1))
      args = %{args | items: Snakepit.input(unsendable)}

      assert {:error, %Error{reason: :invalid_args, command: "failing", message: message}} =
               Snakepit.execute("failing", args, tools: tools, pool: pool)

      assert "args.items[100] is a" <> _ = message

      assert_received {:error, "Snakepit.Error: args.items[100] is a" <> _}
      assert no_messages?()
    end

    test "feeds a stream while its consumer waits", %{pool: pool} do
      me = self()
      items = Snakepit.input(resource(me), max_items: 4)
      stream = Snakepit.stream("echo", %{items: items}, pool: pool)
      assert stream |> Enum.take(5) |> Enum.map(& &1["item"]) == [1, 2, 3, 4, 5]
      assert_received :closed
      taken()
      assert_received :opened
      assert no_messages?()

      items = Snakepit.input(1..1000)
      chunks = Snakepit.stream("echo", %{items: items}, pool: pool)
      assert Enum.map(chunks, & &1["item"]) == Enum.to_list(1..1000)

      raising = Stream.map(1..10, fn n -> if n == 5, do: raise("bad"), else: n end)

      for run <- [
            &Enum.to_list(Snakepit.stream("echo", &1, pool: pool)),
            &Snakepit.execute_stream("echo", &1, fn _ -> :ok end, pool: pool)
          ] do
        assert_raise RuntimeError, "bad", fn -> run.(%{items: Snakepit.input(raising)}) end
      end

      assert no_messages?()
    end

    test "of pushes takes them until it is full", %{pool: pool} do
      {:ok, call} =
        Snakepit.start_stream("echo", %{items: Snakepit.input(:push, max_items: 2)},
          pool: pool,
          demand: 1
        )

      assert :ok = Snakepit.push(call, "a")
      assert {:chunks, [%{"item" => "a"}]} = next(call)

      assert {:error, %Error{message: "args.items: the item is a pid" <> _}} =
               Snakepit.push(call, self())

      # One waits for demand in the command, and two are ahead of it.
      for item <- ["b", "c", "d"], do: assert(:ok = Snakepit.push(call, item))
      eventually(fn -> Snakepit.push(call, "e", timeout: 0) == :busy end)
      assert :busy = Snakepit.push(call, "e", timeout: 10)
      pusher = Task.async(fn -> Snakepit.push(call, "e") end)
      Snakepit.ask(call, 10)
      assert Task.await(pusher, patience()) == :ok
      assert :ok = Snakepit.finish(call)
      assert {:error, %Error{reason: :input_closed}} = Snakepit.push(call, "f")
      assert items(call) == ["b", "c", "d", "e"]
      assert {:error, %Error{reason: :input_closed}} = Snakepit.push(call, "f")
      assert :ok = Snakepit.finish(call)
      assert no_messages?()
    end

    test "is refused where it cannot be", %{pool: pool} do
      input = Snakepit.input([1])

      for {run, said} <- [
            {&Snakepit.execute("count", &1, pool: pool), "nobody could push"},
            {&Snakepit.execute_stream("echo", &1, fn _ -> 1 end, pool: pool), "nobody could push"}
          ] do
        assert {:error, %Error{reason: :invalid_args, message: message}} =
                 run.(%{items: Snakepit.input(:push)})

        assert message =~ said
      end

      assert {:error, %Error{reason: :invalid_args, message: message}} =
               Snakepit.start_stream("echo", %{items: input}, pool: pool)

      assert message =~ "start_stream/3 returns before"

      assert {:error, %Error{reason: :invalid_args, message: "args.a.b is an input" <> _}} =
               Snakepit.execute("count", %{a: %{b: input}}, pool: pool)

      assert [{:error, %Error{reason: :invalid_args}}] =
               Enum.to_list(Snakepit.map("count", [%{items: input}], pool: pool))

      assert_raise ArgumentError, fn -> Snakepit.input(7) end
      assert_raise Error, fn -> Snakepit.input([], max_items: 0) end
    end
  end

  defp resource(me) do
    Stream.resource(
      fn ->
        send(me, :opened)
        1
      end,
      fn n ->
        send(me, {:taken, n})
        {[n], n + 1}
      end,
      fn _n -> send(me, :closed) end
    )
  end

  defp no_messages? do
    receive do
      message -> flunk("left over: #{inspect(message)}")
    after
      0 -> true
    end
  end

  defp taken do
    receive do
      {:taken, n} -> [n | taken()]
    after
      0 -> []
    end
  end

  defp next(%{ref: ref}) do
    assert_receive {:snakepit, ^ref, event}, patience()
    event
  end

  defp items(call) do
    case next(call) do
      {:chunks, chunks} -> Enum.map(chunks, & &1["item"]) ++ items(call)
      {:done, _info} -> []
    end
  end
end
