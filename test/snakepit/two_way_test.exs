for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "TwoWayWith#{kind}Test") do
    # Tools and input streams, with commands in Python.
    use ExUnit.Case, async: true

    import ExUnit.CaptureLog
    import Snakepit.Test.Pools, except: [start_pool!: 0, start_pool!: 1]

    alias Snakepit.{Error, Tensor}
    alias Snakepit.Test.Structs.Lazy
    alias Snakepit.TwoWay.Asks

    @way way
    # Over stdin and stdout there are tools, but no streams.
    @streams kind != :Stdio

    setup_all do
      %{pool: start_pool!(max_concurrency: 4), alone: start_pool!(max_concurrency: 1)}
    end

    # Kills the process that serves the asks of the calling process's call.
    defp kill_own_asks do
      for {_, pid, _, _} <- DynamicSupervisor.which_children(Asks.Supervisor),
          Process.info(pid, :monitors) == {:monitors, [process: self()]} do
        monitor = Process.monitor(pid)
        Process.exit(pid, :kill)
        assert_receive {:DOWN, ^monitor, :process, ^pid, :killed}, patience()
      end

      1
    end

    defp start_pool!(options) do
      args = [class: "two_way_commands:TwoWay", paths: ["test/support/python"]]
      Snakepit.Test.Pools.start_pool!(@way ++ [adapter_args: args] ++ options)
    end

    describe "a tool" do
      test "is called while the command runs, even if that is the only one that may", pools do
        tools = [square: fn %{"x" => x} -> x * x end]

        for pool <- [pools.pool, pools.alone], command <- ["sum_of", "sum_of_async"] do
          assert Snakepit.execute(command, %{tool: "square", n: 20}, tools: tools, pool: pool) ==
                   {:ok, %{"result" => 2470}}
        end
      end

      test "is called in sessions", %{pool: pool} do
        for n <- 1..3 do
          assert {:ok, %{"result" => seen}} =
                   Snakepit.execute_in_session("tools", "remember", %{tool: "give"},
                     tools: [give: fn _ -> n end],
                     pool: pool
                   )

          assert seen == Enum.to_list(1..n)
        end
      end

      test "gives values of all kinds", %{pool: pool} do
        tensor = Tensor.new(<<1, 2>>, :uint8, {2})

        for {value, received} <- [
              {nil, nil},
              {"grün", "grün"},
              {<<255>>, <<255>>},
              {Snakepit.bytes("text"), "text"},
              {tensor, tensor},
              {%{a: [1.5, <<255>>, tensor]}, %{"a" => [1.5, <<255>>, tensor]}},
              {String.duplicate("long", 500_000), String.duplicate("long", 500_000)}
            ],
            command <- ["ask", "ask_async"] do
          me = self()

          tool = fn args ->
            send(me, {:args, args})
            value
          end

          assert {:ok, %{"value" => ^received}} =
                   Snakepit.execute(command, %{tool: "same", args: %{given: value}},
                     tools: %{"same" => tool},
                     pool: pool
                   )

          assert_received {:args, %{"given" => ^received}}
        end
      end

      test "that fails is an error in Python, which the command may catch", %{pool: pool} do
        for {tool, error} <- [
              {fn _ -> {:error, :not_found} end, %{"code" => "not_found"}},
              {fn _ -> {:error, {:taken, "by Ada", %{id: 7}}} end,
               %{"code" => "taken", "message" => "by Ada", "data" => %{"id" => 7}}},
              {fn _ -> raise "oops" end, %{"code" => "exception", "message" => "oops"}},
              {fn _ -> exit(:gone) end, %{"code" => "exit"}}
            ],
            command <- ["ask", "ask_async"] do
          capture_log(fn ->
            assert {:ok, answered} =
                     Snakepit.execute(command, %{tool: "fails", args: %{}},
                       tools: [fails: tool],
                       pool: pool
                     )

            assert Map.take(answered, Map.keys(error)) == error
          end)
        end

        assert {:error, %Error{reason: :python_error, details: %{type: type}, message: message}} =
                 Snakepit.execute("ask_uncaught", %{tool: "fails"},
                   tools: [fails: fn _ -> {:error, :no} end],
                   pool: pool
                 )

        assert type == "snakepit_bridge.ToolError"
        assert message =~ "fails"
      end

      test "answers with text, whatever its failure has instead", %{pool: pool} do
        crash = fn reason -> fn _args -> exit(reason) end end
        linked = {%RuntimeError{message: <<255>>}, [{Kernel, :exit, 1, []}]}

        for {tool, code, message} <- [
              {fn _ -> {:error, %Error{reason: :no, message: nil}} end, "no", "no"},
              {fn _ -> {:error, %Error{reason: :no, message: <<255>>}} end, "no", "<<255>>"},
              {fn _ -> {:error, {:no, <<255>>}} end, "no", "<<255>>"},
              {fn _ -> raise <<255>> end, "exception", "<<255>>"},
              {crash.(linked), "exit", inspect(Exception.format_exit(linked))},
              {fn _ -> Process.exit(self(), linked) end, "exit", nil}
            ],
            command <- ["ask", "ask_async"] do
          capture_log(fn ->
            assert {:ok, %{"code" => ^code, "message" => answered}} =
                     Snakepit.execute(command, %{tool: "fails", args: %{}},
                       tools: [fails: tool],
                       pool: pool
                     )

            assert message in [nil, answered]
          end)
        end
      end

      test "whose process ends while it answers has failed", %{pool: pool} do
        tool = fn _args -> %Lazy{fun: fn -> Process.exit(self(), :kill) end} end

        for command <- ["ask", "ask_async"] do
          capture_log(fn ->
            assert {:ok, %{"code" => "exit", "message" => message}} =
                     Snakepit.execute(command, %{tool: "gives", args: %{}},
                       tools: [gives: tool],
                       pool: pool
                     )

            assert message =~ "killed"
          end)
        end
      end

      test "has a name of its own", %{pool: pool} do
        tool = fn _args -> 1 end

        for tools <- [[t: tool, t: tool], %{:t => tool, "t" => tool}, [t: 1], %{"" => tool}] do
          assert {:error, %Error{reason: :invalid_options, message: message}} =
                   Snakepit.execute("names", %{}, tools: tools, pool: pool)

          assert message =~ "names, each once, and functions of one argument"
        end
      end

      test "that returns what cannot be sent says where it is", %{pool: pool} do
        for {value, said} <- [
              {self(), "answer is a pid"},
              {%{a: [self()]}, "answer.a[0] is a pid"}
            ] do
          capture_log(fn ->
            assert {:ok, %{"code" => "unsendable", "message" => message}} =
                     Snakepit.execute("ask", %{tool: "give", args: %{}},
                       tools: [give: fn _args -> value end],
                       pool: pool
                     )

            assert message =~ said
          end)
        end
      end

      test "is known by its name, and no other can be called", %{pool: pool} do
        tools = [b: & &1, a: & &1]
        options = [tools: tools, pool: pool]
        assert {:ok, %{"result" => ["a", "b"]}} = Snakepit.execute("names", %{}, options)
        assert {:ok, %{"result" => []}} = Snakepit.execute("names", %{}, pool: pool)

        assert {:ok, %{"code" => "unknown_tool", "message" => message}} =
                 Snakepit.execute("ask", %{tool: "c", args: %{}}, options)

        assert message =~ "a, b"
      end

      test "may call the pool again as deep as it has places", %{pool: pool, alone: alone} do
        nested = fn nested, pool, depth ->
          fn _args ->
            tools = [deeper: nested.(nested, pool, depth - 1)]

            call = fn ->
              Snakepit.execute("ask", %{tool: "deeper", args: %{}}, tools: tools, pool: pool)
            end

            cond do
              depth == 0 -> "bottom"
              true -> with {:ok, %{"value" => value}} <- call.(), do: value
            end
          end
        end

        run = fn pool, depth ->
          tools = [deeper: nested.(nested, pool, depth)]
          Snakepit.execute("ask", %{tool: "deeper", args: %{}}, tools: tools, pool: pool)
        end

        assert {:ok, %{"value" => "bottom"}} = run.(pool, 3)
        assert {:ok, %{"value" => %{"code" => "reentrant_call"}}} = run.(pool, 4)
        assert {:ok, %{"code" => "reentrant_call"}} = run.(alone, 1)
      end

      test "may not wait for a task that would wait for its place", %{alone: alone} do
        supervisor = start_supervised!(Task.Supervisor)
        call = fn -> Snakepit.execute("pid", %{}, pool: alone) end
        await = &Task.await(&1, patience())

        for wait <- [
              fn -> call |> Task.async() |> await.() end,
              fn -> supervisor |> Task.Supervisor.async_nolink(call) |> await.() end,
              fn -> await.(Task.async(fn -> call |> Task.async() |> await.() end)) end,
              fn -> [1] |> Task.async_stream(fn _ -> call.() end) |> Enum.at(0) |> elem(1) end
            ] do
          assert {:ok, %{"code" => "reentrant_call"}} =
                   Snakepit.execute("ask", %{tool: "waits", args: %{}},
                     tools: [waits: fn _args -> wait.() end],
                     pool: alone
                   )
        end

        # This one takes the place once it is free.
        me = self()

        start = fn _args ->
          later = fn -> send(me, {:later, call.()}) end
          {:ok, _pid} = Task.Supervisor.start_child(supervisor, later)
          1
        end

        assert {:ok, %{"value" => 1}} =
                 Snakepit.execute("ask", %{tool: "start", args: %{}},
                   tools: [start: start],
                   pool: alone
                 )

        assert_receive {:later, {:ok, %{"result" => _pid}}}, patience()
      end

      test "ends with the call, at its deadline and with its worker", %{pool: pool} do
        me = self()

        stuck = fn _args ->
          send(me, {:stuck, self()})
          Process.sleep(:infinity)
        end

        options = [tools: [stuck: stuck], pool: pool]

        with_time(fn timeout ->
          assert {:error, %Error{reason: :timeout}} =
                   Snakepit.execute(
                     "ask_uncaught",
                     %{tool: "stuck"},
                     [timeout: timeout] ++ options
                   )

          receive do
            {:stuck, pid} -> refute Process.alive?(pid)
          after
            0 -> :too_short
          end
        end)

        own = start_pool!([])
        {:ok, %{"result" => os_pid}} = Snakepit.execute("pid", %{}, pool: own)
        options = Keyword.put(options, :pool, own)
        call = Task.async(fn -> Snakepit.execute("ask_uncaught", %{tool: "stuck"}, options) end)
        assert_receive {:stuck, pid}, patience()
        signal("KILL", os_pid)
        assert {:error, %Error{reason: :worker_crashed}} = Task.await(call, patience())
        refute Process.alive?(pid)
      end
    end

    if @streams do
      describe "a tool of a stream" do
        test "does not hold back the timeouts of chunks", %{pool: pool} do
          late = fn %{"x" => x} -> if x < 2, do: x, else: Process.sleep(:infinity) end
          args = %{tool: "late", n: 3}

          for {option, first} <- [idle_timeout: 0, first_chunk_timeout: 2] do
            tools = [late: fn %{"x" => x} -> late.(%{"x" => x + first}) end]
            options = [{option, 50}, tools: tools, pool: pool]

            assert {:error, %Error{reason: :timeout, message: message}} =
                     Snakepit.execute_stream("stream_of", args, fn _ -> :ok end, options)

            assert message =~ "50 ms (#{inspect(option)})"
          end
        end

        test "is called by streams, whichever way they are consumed", %{alone: pool} do
          tools = [square: fn %{"x" => x} -> x * x end]
          args = %{tool: "square", n: 60}
          expected = for x <- 0..59, do: x * x
          options = [tools: tools, pool: pool]
          me = self()

          assert Enum.map(Snakepit.stream("stream_of", args, options), & &1["value"]) == expected

          callback = &send(me, {:chunk, &1["value"]})
          assert :ok = Snakepit.execute_stream("stream_of", args, callback, options)
          assert for(_ <- expected, do: receive(do: ({:chunk, value} -> value))) == expected

          # The tools run while their caller does something else.
          {:ok, call} = Snakepit.start_stream("stream_of", args, [demand: 60] ++ options)
          assert collect(call) == expected
          assert no_messages?()
        end

        test "ends when its stream is cancelled", %{pool: pool} do
          me = self()

          stuck = fn _args ->
            send(me, {:stuck, self()})
            Process.sleep(:infinity)
          end

          options = [tools: [stuck: stuck], pool: pool]
          {:ok, call} = Snakepit.start_stream("stream_of", %{tool: "stuck", n: 1}, options)
          assert_receive {:stuck, pid}, patience()
          :ok = Snakepit.cancel(call)
          refute Process.alive?(pid)
          assert no_messages?()
        end
      end
    end

    describe "a call with tools that ends early" do
      setup do
        me = self()

        stuck = fn _args ->
          send(me, {:stuck, self()})
          Process.sleep(:infinity)
        end

        %{stuck: [stuck: stuck]}
      end

      test "ends with its pool", %{stuck: tools} do
        pool = start_pool!(kill_grace: 100, shutdown_timeout: 100)

        call =
          Task.async(fn ->
            Snakepit.execute("ask_uncaught", %{tool: "stuck"}, tools: tools, pool: pool)
          end)

        assert_receive {:stuck, pid}, patience()
        :ok = stop_supervised({Snakepit.Pool, pool})
        assert {:error, %Error{}} = Task.await(call, patience())
        refute Process.alive?(pid)
      end

      test "leaves nothing, whoever is killed, and the worker takes the next", context do
        %{stuck: tools, alone: pool} = context

        for victim <- [:caller, :tool, :asks] do
          caller =
            spawn(fn ->
              Snakepit.execute("ask", %{tool: "stuck", args: %{}}, tools: tools, pool: pool)
            end)

          assert_receive {:stuck, pid}, patience()
          {:links, [asks]} = Process.info(pid, :links)
          victims = %{caller: caller, tool: pid, asks: asks}

          capture_log(fn ->
            Process.exit(victims[victim], :kill)
            for {_who, pid} <- victims, do: eventually(fn -> not Process.alive?(pid) end)
          end)

          assert {:ok, %{"value" => 1}} =
                   Snakepit.execute("ask", %{tool: "one", args: %{}},
                     tools: [one: fn _ -> 1 end],
                     pool: pool
                   )
        end

        assert no_messages?()
      end

      test "is cancelled if the process that serves its asks has ended before it starts",
           context do
        %{stuck: tools, alone: pool} = context
        args = %{tool: "stuck", args: %{x: %Lazy{fun: &kill_own_asks/0}}}
        options = [tools: tools, pool: pool]
        assert {:error, %Error{reason: :cancelled}} = Snakepit.execute("ask", args, options)

        if @streams do
          args = %{tool: "stuck", n: %Lazy{fun: &kill_own_asks/0}}

          assert {:error, %Error{reason: :cancelled}} =
                   Snakepit.execute_stream("stream_of", args, & &1, options)
        end

        assert no_messages?()
      end
    end

    unless @streams do
      test "an input is refused", %{pool: pool} do
        assert {:error, %Error{reason: :streaming_not_supported, message: message}} =
                 Snakepit.execute("total", %{rows: Snakepit.input([1])}, pool: pool)

        assert message =~
                 "args.rows is an input stream, which workers over stdin and stdout do not take"

        assert {:ok, %{"result" => _pid}} = Snakepit.execute("pid", %{}, pool: pool)
      end
    end

    if @streams do
      describe "an input" do
        test "is read as it comes", %{pool: pool} do
          for command <- ["total", "total_async"], n <- [0, 1, 2_000] do
            rows = Snakepit.input(Stream.take(Stream.iterate(1, &(&1 + 1)), n))

            assert Snakepit.execute(command, %{rows: rows}, pool: pool) ==
                     {:ok, %{"result" => div(n * (n + 1), 2)}}
          end

          args = %{a: Snakepit.input(1..1000), b: Snakepit.input(Stream.cycle(["x", "y"]))}
          assert {:ok, %{"result" => pairs}} = Snakepit.execute("pairs", args, pool: pool)
          assert length(pairs) == 1000
          assert Enum.take(pairs, 3) == ["1x", "2y", "3x"]
          assert no_messages?()
        end

        @tag :tmp_dir
        test "may be a file", %{pool: pool, tmp_dir: dir} do
          path = Path.join(dir, "rows")
          File.write!(path, for(n <- 1..5000, do: "row #{n}\n"))

          assert {:ok, %{"rows" => 5000, "characters" => characters}} =
                   Snakepit.execute("lengths", %{rows: Snakepit.input(File.stream!(path))},
                     pool: pool,
                     session_id: "file"
                   )

          assert characters == File.stat!(path).size
        end

        test "has values of all kinds", %{pool: pool} do
          tensor = Tensor.new(<<1, 2>>, :uint8, {2})
          large = String.duplicate("large", 200_000)
          items = [nil, "grün", <<255>>, tensor, %{a: [tensor]}, large, large]
          received = [nil, "grün", <<255>>, tensor, %{"a" => [tensor]}, large, large]

          assert {:ok, %{"result" => ^received}} =
                   Snakepit.execute("same", %{items: Snakepit.input(items)}, pool: pool)
        end

        test "whose enumerable calls the pool never waits for the command itself", pools do
          for pool <- [pools.pool, pools.alone] do
            call = fn _n -> Snakepit.execute("total", %{rows: [1, 2]}, pool: pool) end

            rows =
              1..3
              |> Stream.map(call)
              |> Stream.map(fn
                {:ok, %{"result" => sum}} -> sum
                {:error, %Error{reason: :reentrant_call}} -> 100
              end)

            sum = if pool == pools.alone, do: 300, else: 9

            assert Snakepit.execute("total", %{rows: Snakepit.input(rows)}, pool: pool) ==
                     {:ok, %{"result" => sum}}

            assert {:ok, _pid} = Snakepit.execute("pid", %{}, pool: pool)
          end
        end

        test "is never further ahead of the command than its limit", %{pool: pool} do
          counter = :counters.new(1, [])

          rows =
            Stream.map(1..300, fn n ->
              :counters.add(counter, 1, 1)
              n
            end)

          # Those that the command has read, and those that it has taken with them.
          tool = fn %{"read" => read} ->
            assert :counters.get(counter, 1) <= read + 20
            nil
          end

          args = %{rows: Snakepit.input(rows, max_items: 20), tool: "check"}

          assert {:ok, %{"result" => 300}} =
                   Snakepit.execute("one_by_one", args, tools: [check: tool], pool: pool)
        end

        test "is halted when the command takes no more of it", %{pool: pool} do
          for {command, args, result} <- [
                {"first", %{count: 3}, {:ok, [1, 2, 3]}},
                {"first_and_on", %{tool: "closed"}, {:ok, [1, true]}},
                {"raises", %{}, :error}
              ] do
            rows = resource(self(), :infinity)
            me = self()

            # The enumerable is closed while the command goes on.
            tool = fn _args ->
              eventually(fn ->
                {:messages, messages} = Process.info(me, :messages)
                :closed in messages
              end)

              true
            end

            returned =
              Snakepit.execute(command, Map.put(args, :rows, Snakepit.input(rows)),
                tools: [closed: tool],
                pool: pool
              )

            case result do
              {:ok, value} -> assert returned == {:ok, %{"result" => value}}
              :error -> assert {:error, %Error{reason: :python_error}} = returned
            end

            assert_received :opened
            assert_received :closed
            assert no_messages?()
          end
        end

        test "that raises is an error in Python, and in the caller once the command has ended",
             %{pool: pool} do
          me = self()

          rows =
            Stream.map(1..100, fn n -> if n == 4, do: raise(ArgumentError, "no row"), else: n end)

          tools = [tell: &send(me, {:told, &1})]
          args = %{rows: Snakepit.input(rows), tool: "tell"}

          assert_raise ArgumentError, "no row", fn ->
            Snakepit.execute("cleans_up", args, tools: tools, pool: pool)
          end

          assert_received {:told,
                           %{
                             "read" => [1, 2, 3],
                             "type" => "ArgumentError",
                             "message" => "no row"
                           }}

          assert no_messages?()
        end

        test "that raises something else than text is an error all the same", %{pool: pool} do
          me = self()
          rows = Stream.map(1..100, fn _ -> raise <<255>> end)
          args = %{rows: Snakepit.input(rows), tool: "tell"}

          assert_raise RuntimeError, <<255>>, fn ->
            Snakepit.execute("cleans_up", args, tools: [tell: &send(me, {:told, &1})], pool: pool)
          end

          assert_received {:told, %{"type" => "RuntimeError", "message" => "<<255>>"}}

          rows =
            Stream.map(1..100, fn _ ->
              exit({%RuntimeError{message: <<255>>}, [{Kernel, :exit, 1, []}]})
            end)

          call = fn -> Snakepit.execute("total", %{rows: Snakepit.input(rows)}, pool: pool) end
          assert {%RuntimeError{message: <<255>>}, _} = catch_exit(call.())
          assert no_messages?()
        end

        @tag :tmp_dir
        test "feeds a stream, and both ends close when the consumer halts", %{
          pool: pool,
          tmp_dir: dir
        } do
          for command <- ["doubled", "doubled_async"] do
            rows = Snakepit.input(1..2000)

            assert command
                   |> Snakepit.stream(%{rows: rows}, pool: pool)
                   |> Enum.map(& &1["result"]) ==
                     Enum.map(1..2000, &(2 * &1))
          end

          closed = Path.join(dir, "closed")
          args = %{rows: Snakepit.input(resource(self(), :infinity)), closed: closed}
          chunks = "doubled" |> Snakepit.stream(args, pool: pool) |> Enum.take(5)
          assert Enum.map(chunks, & &1["result"]) == [2, 4, 6, 8, 10]
          assert_received :opened
          assert_received :closed
          eventually(fn -> File.exists?(closed) end)
          assert no_messages?()
        end

        test "of pushes is fed by any process", %{pool: pool} do
          input = Snakepit.input(:push)

          {:ok, call} =
            Snakepit.start_stream("upcase", %{messages: input}, pool: pool, demand: 100)

          assert :ok = Snakepit.push(call, %{text: "hello"})
          assert Task.await(Task.async(fn -> Snakepit.push(call, %{text: "all"}) end)) == :ok
          assert :ok = Snakepit.finish(call)
          assert collect(call, "result") == ["HELLO", "ALL", "2 in all"]
          assert {:error, %Error{reason: :input_closed}} = Snakepit.push(call, %{text: "late"})

          {:ok, call} = Snakepit.start_stream("upcase", %{messages: input}, pool: pool, demand: 1)

          pusher = Task.async(fn -> push_all(call) end)
          ref = call.ref
          assert_receive {:snakepit, ^ref, {:chunks, [%{"result" => "MORE"}]}}, patience()
          # It waits.
          eventually(fn -> Process.info(pusher.pid, :status) == {:status, :waiting} end)
          :ok = Snakepit.cancel(call)
          assert {:error, %Error{reason: :input_closed}} = Task.await(pusher, patience())
        end

        test "ends with its worker, and its caller with the input", %{} do
          pool = start_pool!([])
          {:ok, %{"result" => os_pid}} = Snakepit.execute("pid", %{}, pool: pool)
          me = self()

          kill = fn _args ->
            signal("KILL", os_pid)
            Process.sleep(:infinity)
          end

          args = %{rows: Snakepit.input(resource(me, :infinity)), tool: "kill"}

          assert {:error, %Error{reason: :worker_crashed}} =
                   Snakepit.execute("one_by_one", args, tools: [kill: kill], pool: pool)

          assert_received :opened
          assert_received :closed
          assert no_messages?()

          stuck = fn _ ->
            send(me, {:stuck, self()})
            Process.sleep(:infinity)
          end

          options = [tools: [stuck: stuck], pool: pool]
          args = %{rows: Snakepit.input([1]), tool: "stuck"}
          caller = spawn(fn -> Snakepit.execute("one_by_one", args, options) end)
          assert_receive {:stuck, pid}, patience()
          Process.exit(caller, :kill)
          eventually(fn -> not Process.alive?(pid) end)
          # The worker takes the next call.
          assert {:ok, %{"result" => 1}} =
                   Snakepit.execute("total", %{rows: Snakepit.input([1])}, pool: pool)
        end
      end
    end

    if @streams do
      defp push_all(call) do
        with :ok <- Snakepit.push(call, %{text: "more"}), do: push_all(call)
      end

      defp resource(me, count) do
        Stream.resource(
          fn ->
            send(me, :opened)
            1
          end,
          fn n -> if n > count, do: {:halt, n}, else: {[n], n + 1} end,
          fn _n -> send(me, :closed) end
        )
      end

      defp collect(%{ref: ref} = call, name \\ "value") do
        receive do
          {:snakepit, ^ref, {:chunks, chunks}} ->
            Enum.map(chunks, & &1[name]) ++ collect(call, name)

          {:snakepit, ^ref, {:done, _info}} ->
            []
        end
      end
    end

    defp no_messages? do
      receive do
        message -> flunk("left over: #{inspect(message)}")
      after
        0 -> true
      end
    end
  end
end
