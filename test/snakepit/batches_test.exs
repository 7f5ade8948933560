for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "BatchesOver#{kind}Test") do
    # Commands that take batches: each caller has its own answer, error, deadline and cancellation.
    #
    # While one batch of a command runs, others of it wait until they are full, though a place is free: two calls run at
    # a time here. So three calls behind a held one are a batch, however they arrive. Each test has a command of its
    # own, because the next batch of a command waits for as many calls as the last one had.
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @moduletag :tmp_dir
    @args [class: "batch_commands:BatchCommands", paths: ["test/support/python"]]
    @way way
    @streams kind != :Stdio
    @restarts kind == :Native

    setup_all do
      %{pool: start_pool!([adapter_args: @args, max_concurrency: 2] ++ @way)}
    end

    setup %{pool: pool, tmp_dir: dir} do
      %{options: [pool: pool], held: Path.join(dir, "held"), go: Path.join(dir, "go")}
    end

    defp call(options, command, args \\ %{}) do
      with {:ok, result} <- Snakepit.execute(command, args, options),
           do: {:ok, Map.get(result, "result", result)}
    end

    defp async(options, command, args), do: Task.async(fn -> call(options, command, args) end)

    # Runs a batch of one call until the file exists; returns once it has started.
    defp hold(options, command, until) do
      task = async(options, command, %{n: 0, until: until})
      await_file(until <> ".started")
      task
    end

    defp release(task, until) do
      File.touch!(until)
      assert {:ok, %{"square" => 0, "size" => 1}} = await(task)
    end

    defp await_file(path), do: eventually(fn -> File.exists?(path) end)

    # Makes three calls that are one batch.
    defp trio(options, command, held, numbers) do
      first = hold(options, command, held)
      tasks = for n <- numbers, do: async(options, command, %{n: n})
      results = await_many(tasks)
      release(first, held)
      results
    end

    defp in_flight(options) do
      {:ok, workers} = Snakepit.list_workers(options[:pool])
      workers |> Enum.map(& &1.in_flight) |> Enum.sort(:desc)
    end

    # How many calls have ended in the worker.
    defp ended(options) do
      # Nil, if the machine is too busy for an answer in time.
      eventually(fn ->
        {:ok, [%{requests: requests}]} = Snakepit.list_workers(options[:pool])
        requests
      end)
    end

    defp more_ended?(_options, _ended, 0), do: false

    defp more_ended?(options, ended, tries) do
      if ended(options) > ended do
        true
      else
        receive do
        after
          10 -> more_ended?(options, ended, tries - 1)
        end
      end
    end

    defp kill(pid) do
      ref = Process.monitor(pid)
      Process.exit(pid, :kill)
      receive do: ({:DOWN, ^ref, :process, _pid, _reason} -> :ok)
    end

    test "calls gather, and each has its own result", test do
      assert [
               {:ok, %{"square" => 1, "size" => 3}},
               {:ok, %{"square" => 4, "size" => 3}},
               {:ok, %{"square" => 9, "size" => 3}}
             ] = trio(test.options, "trio0", test.held, 1..3)
    end

    test "async commands take batches", test do
      results = trio(test.options, "async_trio0", test.held, 1..3)
      assert [1, 4, 9] = for({:ok, %{"square" => square, "size" => 3}} <- results, do: square)
    end

    test "a lone call to an idle worker does not wait", test do
      # It would wait for a minute.
      started = System.monotonic_time(:millisecond)
      for n <- 1..3, do: assert({:ok, %{"size" => 1}} = call(test.options, "trio1", %{n: n}))
      assert System.monotonic_time(:millisecond) - started < 60_000
    end

    test "an exception in the list is the error of its call", test do
      for command <- ~w(trio2 async_trio2) do
        held = test.held <> command

        assert [{:ok, %{"square" => 1}}, {:error, error}, {:ok, %{"square" => 9}}] =
                 trio(test.options, command, held, [1, -2, 3])

        assert %Error{reason: :command_error, details: %{code: "negative", data: -2}} = error
      end
    end

    test "an exception that is raised is the error of every call", test do
      for command <- ~w(trio3 async_trio3) do
        held = test.held <> command

        for result <- trio(test.options, command, held, [1, 1000, 3]) do
          assert {:error, %Error{reason: :python_error} = error} = result
          assert error.message == "RuntimeError: the whole batch"
          assert Enum.any?(error.details.frames, &(&1.function == "results"))
        end
      end
    end

    test "arguments that are invalid fail their own call only", test do
      assert [{:ok, %{"square" => 1, "size" => 2}}, {:error, error}, {:ok, %{"square" => 9}}] =
               trio(test.options, "trio4", test.held, [1, "two", 3])

      assert %Error{reason: :invalid_args, details: %{errors: [%{"path" => ["n"]}]}} = error
      assert error.message =~ "n: expected int, got str 'two': the command is trio4(n: int"
    end

    test "what is no list of the right length fails every call", test do
      for command <- ~w(wrong wrong_async),
          {returns, got} <- [
            {"a dict", "dict"},
            {"too few", "0 results"},
            {"a text", "str"},
            {"an iterator", "list_iterator: return list(...) of it"},
            {"a generator", "generator: return list(...) of it"}
          ] do
        assert {:error, %Error{reason: :invalid_result, message: message}} =
                 call(test.options, command, %{returns: returns})

        assert message =~ "#{command} takes batches"
        assert message =~ "expected 1 in a list, got #{got}"
      end
    end

    test "a coroutine that a decorator has hidden is awaited", test do
      assert call(test.options, "hidden", %{n: 7}) == {:ok, 7}
    end

    test "of a worker that dies, no call that has started runs again", test do
      first = hold(test.options, "trio12", test.held)
      tasks = for n <- 1..3, do: async(test.options, "trio12", %{n: n, until: test.go})
      await_file(test.go <> ".started")
      # Two batches run, so this one waits in the worker.
      waits = async(test.options, "trio12", %{n: 7})
      eventually(fn -> in_flight(test.options) == [5] end)
      {:ok, [%{os_pid: os_pid}]} = Snakepit.list_workers(test.pool)
      signal("KILL", os_pid)

      for result <- await_many([first | tasks]),
          do: assert({:error, %Error{reason: :worker_crashed}} = result)

      # The native server keeps a journal of what starts.
      if @restarts do
        assert {:ok, %{"square" => 49, "size" => 1}} = await(waits)
        assert call(test.options, "log") == {:ok, [[7]]}
      else
        assert {:error, %Error{reason: :worker_crashed}} = await(waits)
        assert call(test.options, "log") == {:ok, []}
      end
    end

    test "a result that cannot be sent fails its own call only", test do
      tasks = for n <- 1..3, do: async(test.options, "unsendable", %{n: n})
      assert [{:error, %Error{reason: :invalid_result}}, {:ok, 2}, {:ok, 3}] = await_many(tasks)
    end

    test "a batch is bounded by its bytes", test do
      # No two of these fit into one batch.
      text = String.duplicate("x", 600)
      tasks = for n <- 1..4, do: async(test.options, "sized", %{text: text, extra: n})
      assert await_many(tasks) == for(n <- 1..4, do: {:ok, 600 + n})
      large = String.duplicate("x", 5_000)
      assert call(test.options, "sized", %{text: large, extra: 0}) == {:ok, 5_000}
    end

    test "a cancelled call leaves a batch that has not started", test do
      for command <- ~w(trio5 async_trio5) do
        held = test.held <> command
        first = hold(test.options, command, held)

        # What is sent to the worker later may arrive sooner: it must have noticed. A call that is cancelled before it
        # arrives is made again.
        eventually(fn ->
          gone = spawn(fn -> call(test.options, command, %{n: 666}) end)
          eventually(fn -> in_flight(test.options) == [2] end)
          ended = ended(test.options)
          kill(gone)
          eventually(fn -> in_flight(test.options) == [1] end)
          more_ended?(test.options, ended, 200)
        end)

        tasks = for n <- 1..3, do: async(test.options, command, %{n: n})

        assert [1, 4, 9] =
                 for({:ok, %{"square" => square, "size" => 3}} <- await_many(tasks), do: square)

        release(first, held)
        {:ok, log} = call(test.options, "log")
        refute 666 in List.flatten(log)
      end
    end

    test "a call that is cancelled while its batch runs is gone, and the batch runs on", test do
      for command <- ~w(trio6 async_trio6) do
        {held, go} = {test.held <> command, test.go <> command}
        first = hold(test.options, command, held)
        gone = spawn(fn -> call(test.options, command, %{n: 1, until: go}) end)
        tasks = for n <- 2..3, do: async(test.options, command, %{n: n})
        await_file(go <> ".started")
        assert in_flight(test.options) == [4]
        kill(gone)
        # Its place is free while the batch runs, so nothing is killed after :kill_grace.
        eventually(fn -> in_flight(test.options) == [3] end)
        eventually(fn -> lines(go <> ".cancelled") == ["1"] end)
        File.touch!(go)
        assert [{:ok, %{"square" => 4, "size" => 3}}, {:ok, %{"square" => 9}}] = await_many(tasks)
        release(first, held)
      end
    end

    test "a batch whose calls are all cancelled is", test do
      for {command, sign} <- [{"trio7", ".cancelled"}, {"async_trio7", ".closed"}] do
        {held, go} = {test.held <> command, test.go <> command}
        first = hold(test.options, command, held)

        callers =
          for n <- 1..3, do: spawn(fn -> call(test.options, command, %{n: n, until: go}) end)

        await_file(go <> ".started")
        Enum.each(callers, &kill/1)
        await_file(go <> sign)
        eventually(fn -> in_flight(test.options) == [1] end)
        release(first, held)
        assert {:ok, _pid} = call(test.options, "pid")
      end
    end

    test "a deadline that passes while the batch runs is that of its call only", test do
      first = hold(test.options, "trio8", test.held)
      late = async([timeout: 1_000] ++ test.options, "trio8", %{n: 1})
      tasks = for n <- 2..3, do: async(test.options, "trio8", %{n: n, until: test.go})
      assert {:error, %Error{reason: :timeout}} = await(late)
      # On a machine on which the calls did not arrive within its time, it has left.
      more =
        if File.exists?(test.go <> ".started"),
          do: [],
          else: [async(test.options, "trio8", %{n: 4})]

      File.touch!(test.go)
      assert [{:ok, %{"square" => 4}}, {:ok, %{"square" => 9}} | _] = await_many(tasks ++ more)
      release(first, test.held)
    end

    test "a batch has calls of several sessions and of none", test do
      first = hold(test.options, "trio9", test.held)
      in_session = &async([session_id: &1] ++ test.options, "trio9", %{n: &2})
      tasks = [in_session.("a", 1), in_session.("b", 2), async(test.options, "trio9", %{n: 3})]

      assert [
               {:ok, %{"session" => [1], "size" => 3}},
               {:ok, %{"session" => [2]}},
               {:ok, %{"session" => nil}}
             ] = await_many(tasks)

      release(first, test.held)
    end

    test "map/3 makes as many calls as fit into the batches that a worker runs", test do
      me = self()

      elements =
        Stream.map(1..10, fn n ->
          send(me, {:taken, n})
          %{n: n, until: test.go}
        end)

      task =
        Task.async(fn -> "held" |> Snakepit.map(elements, test.options) |> Enum.to_list() end)

      # Two batches of three.
      for n <- 1..6, do: assert_receive({:taken, ^n})
      eventually(fn -> in_flight(test.options) == [6] end)
      refute_received {:taken, _n}
      File.touch!(test.go)
      squares = for {:ok, %{"square" => square}} <- await(task), do: square
      assert squares == for(n <- 1..10, do: n ** 2)
    end

    if @streams do
      test "called as a stream, a command sends its result as the only chunk", test do
        assert [%{"square" => 25, "is_final" => true}] =
                 "trio10" |> Snakepit.stream(%{n: 5}, test.options) |> Enum.to_list()

        assert_raise Error, ~r/negative/, fn ->
          "trio10" |> Snakepit.stream(%{n: -5}, test.options) |> Enum.to_list()
        end
      end
    end

    test "telemetry has the size of the batch and how long the call waited for it", test do
      me = self()

      handler = fn event, measurements, metadata, _ ->
        send(me, {event, measurements, metadata})
      end

      ids = for event <- [:stop, :exception], do: {make_ref(), event}

      for {_, event} = id <- ids,
          do: :ok = :telemetry.attach(id, [:snakepit, :call, event], handler, nil)

      results = trio(test.options, "trio11", test.held, [1, -2, 3])
      Enum.each(ids, &:telemetry.detach/1)
      assert [{:ok, _}, {:error, _}, {:ok, _}] = results
      pool = test.pool

      sizes =
        for _ <- 1..4 do
          assert_receive {[:snakepit, :call, _], %{batch_size: size, batch_wait: wait},
                          %{pool: ^pool, command: "trio11"}}

          assert is_integer(wait) and wait >= 0
          size
        end

      assert Enum.sort(sizes) == [1, 3, 3, 3]
      {:ok, _} = call(test.options, "pid")
    end

    test "commands/1 says how calls gather", test do
      {:ok, commands} = Snakepit.commands(test.pool)
      of = fn name -> Enum.find(commands, &(&1.name == name)) end
      assert of.("pid").batch == nil
      assert of.("sized").batch == %{size: 8, wait_ms: 20.0, max_bytes: 1_000}
      assert of.("sized").signature == "sized(text: str, extra: int)"

      assert [%{name: "n", type: "int", required: true}, %{name: "until", required: false}] =
               of.("trio0").parameters
    end

    test "of many calls, some of which fail and some are cancelled, each has its own answer",
         test do
      results =
        1..1_000
        |> Task.async_stream(
          fn
            n when rem(n, 100) == 50 ->
              pid = spawn(fn -> call(test.options, "many", %{n: n, fails: false}) end)
              Process.exit(pid, :kill)
              {n, :cancelled}

            n ->
              {n, call(test.options, "many", %{n: n, fails: rem(n, 100) == 0})}
          end,
          max_concurrency: 64,
          timeout: patience()
        )
        |> Enum.map(fn {:ok, result} -> result end)

      for {n, result} <- results, result != :cancelled do
        if rem(n, 100) == 0 do
          assert {:error, %Error{reason: :python_error, details: %{message: text}}} = result
          assert text == "#{n}"
        else
          assert {:ok, %{"n" => ^n}} = result
        end
      end
    end
  end
end
