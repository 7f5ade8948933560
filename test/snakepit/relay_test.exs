defmodule Snakepit.RelayTest do
  # Calls between Erlang nodes: those of `caller`, which has neither Python nor the native library, to the pools of
  # `owner`. Both are further BEAMs on this machine.
  use ExUnit.Case, async: true

  import Snakepit.Test.Peers
  import Snakepit.Test.Pools, only: [eventually: 1, patience: 0, signal: 2]

  alias Snakepit.Error
  alias Snakepit.Test.Peers

  @moduletag :tmp_dir
  @faces [:execute_stream, :run_stream, :stream, :start_stream]

  setup_all do
    owner = Peers.start!()
    start_pool!(owner, Far, max_concurrency: 4)
    caller = Peers.start!(paths: without_library())
    %{owner: owner, caller: caller, third: Peers.start!(), pool: {Far, owner.node}}
  end

  # The code paths of a system without the native library: it is where the application is.
  defp without_library do
    dir = Path.join(System.tmp_dir!(), "snakepit_bare_#{System.pid()}")
    File.mkdir_p!(Path.join(dir, "snakepit"))
    on_exit(fn -> File.rm_rf!(dir) end)
    own = Application.app_dir(:snakepit, "ebin")
    bare = Path.join(dir, "snakepit/ebin")
    File.cp_r!(own, bare)

    for path <- :code.get_path(),
        do: if(to_string(path) == own, do: to_charlist(bare), else: path)
  end

  defp start_pool!(peer, name, options \\ []) do
    python = for path <- List.wrap(System.get_env("SNAKEPIT_TEST_PYTHON")), do: {:python, path}

    options =
      [
        name: name,
        root: File.cwd!(),
        size: 1,
        adapter_args: [class: "trouble:Trouble", paths: ["test/support/python"]],
        startup_timeout: 2 * patience(),
        timeout: patience(),
        queue_timeout: patience(),
        kill_grace: patience()
      ]
      |> Keyword.merge(python ++ options)

    on peer do
      start = fn ->
        {:ok, _} = Snakepit.Pool.start_link(options)
        Process.sleep(:infinity)
      end

      owner = spawn(start)
      true = Process.register(owner, :"owner of #{inspect(name)}")
    end

    # The process has to start it first.
    eventually(fn -> call(peer, Snakepit.Pool, :await_ready, [name, 2 * patience()]) == :ok end)
    name
  end

  defp stop_pool!(peer, name) do
    on peer do
      owner = Process.whereis(:"owner of #{inspect(name)}")
      monitor = Process.monitor(owner)
      Process.unlink(Process.whereis(name))
      :ok = Supervisor.stop(name)
      Process.exit(owner, :kill)
      receive do: ({:DOWN, ^monitor, _, _, _} -> :ok)
    end
  end

  defp started(path), do: eventually(fn -> File.exists?(path) end)

  # A message can be with the other node a moment before the connection is one that can be cut.
  defp disconnect(peer, node),
    do: eventually(fn -> on(peer, do: :erlang.disconnect_node(node)) end)

  defp progress(path) do
    with {:ok, text} <- File.read(path),
         {count, ""} <- text |> String.trim() |> Integer.parse(),
         do: count,
         else: (_ -> 0)
  end

  # A process on a node that consumes a stream in one of the ways, and writes to a file once it has a chunk.
  defp consume(peer, face, command, args, path, options) do
    spawn_on peer do
      first = fn _chunk -> File.write!(path, "") end

      case face do
        :execute_stream ->
          Snakepit.execute_stream(command, args, first, options)

        :run_stream ->
          Snakepit.run_stream(command, args, first, options)

        :stream ->
          command |> Snakepit.stream(args, options) |> Enum.each(first)

        :start_stream ->
          {:ok, %{ref: ref} = call} = Snakepit.start_stream(command, args, options)

          take = fn take ->
            receive do
              {:snakepit, ^ref, {:chunks, chunks}} ->
                Enum.each(chunks, first)
                Snakepit.ask(call, length(chunks))
                take.(take)
            end
          end

          take.(take)
      end
    end
  end

  describe "tools" do
    test "run on the caller's node", %{caller: caller, pool: pool} do
      answers =
        on caller do
          tools = [
            value: &[node(), &1, ~D[2026-01-01]],
            no: fn _ -> {:error, :no} end,
            taken: fn _ -> {:error, {:taken, "by Ada", %{at: ~D[2026-01-01]}}} end,
            bad: fn _ -> {:error, %ArgumentError{message: "bad"}} end
          ]

          for {tool, _function} <- tools, into: %{} do
            args = %{tool: tool, args: %{x: 1}}
            {:ok, answer} = Snakepit.execute("ask", args, pool: pool, tools: tools)
            {tool, answer}
          end
        end

      assert answers.value == %{
               "value" => [Atom.to_string(caller.node), %{"x" => 1}, "2026-01-01"]
             }

      assert %{"code" => "no"} = answers.no
      taken = %{"code" => "taken", "message" => "by Ada", "data" => %{"at" => "2026-01-01"}}
      assert answers.taken == taken
      assert %{"code" => "exception", "message" => "bad"} = answers.bad
    end

    test "answer streams, whichever way they are consumed", context do
      %{caller: caller, pool: pool} = context

      values =
        on caller do
          args = %{tool: "double", n: 50}
          options = [pool: pool, tools: [double: fn %{"x" => x} -> 2 * x end]]
          lazy = "ask_each" |> Snakepit.stream(args, options) |> Enum.map(& &1["value"])
          me = self()
          :ok = Snakepit.execute_stream("ask_each", args, &send(me, &1["value"]), options)
          each = for _ <- 1..50, do: receive(do: (value -> value))

          {:ok, %{ref: ref}} = Snakepit.start_stream("ask_each", args, [demand: 50] ++ options)

          sum = fn sum, total ->
            receive do
              {:snakepit, ^ref, {:chunks, chunks}} ->
                sum.(sum, total + Enum.sum(Enum.map(chunks, & &1["value"])))

              {:snakepit, ^ref, {:done, _info}} ->
                total
            end
          end

          [lazy, each, sum.(sum, 0)]
        end

      expected = for x <- 0..49, do: 2 * x
      assert values == [expected, expected, Enum.sum(expected)]
    end

    test "end with the call", %{caller: caller, pool: pool} do
      left =
        on caller do
          me = self()

          stuck = fn _args ->
            send(me, {:stuck, self()})
            Process.sleep(:infinity)
          end

          options = [pool: pool, tools: [stuck: stuck]]
          args = %{tool: "stuck", n: 1}
          {:ok, call} = Snakepit.start_stream("ask_each", args, options)
          pid = receive do: ({:stuck, pid} -> pid)
          :ok = Snakepit.cancel(call)
          Process.alive?(pid)
        end

      assert left == false

      eventually(fn ->
        %{active: 0} ==
          caller
          |> call(DynamicSupervisor, :count_children, [Snakepit.TwoWay.Asks.Supervisor])
          |> Map.take([:active])
      end)
    end

    test "but no inputs", %{caller: caller, pool: pool} do
      assert {:error, %Error{reason: :streaming_not_supported, message: message}} =
               on(caller,
                 do: Snakepit.execute("echo", %{rows: Snakepit.input([1])}, pool: pool)
               )

      assert message =~ "which a call to another node does not take"
    end
  end

  describe "a call" do
    test "returns the result, from a node without the native library", context do
      %{caller: caller, pool: pool} = context
      assert call(caller, Snakepit.Native, :load_error, []) =~ "native"

      assert {:ok, %{"result" => 5}} =
               on(caller, do: Snakepit.execute("add", %{a: 2, b: 3}, pool: pool))

      args = %{
        "text" => "grüße",
        "list" => [1, 2.5, nil, true, [], %{}],
        "big" => 2 ** 200,
        "bytes" => <<255, 0, 254>>,
        "large" => String.duplicate("x", 1_000_000)
      }

      assert {:ok, ^args} = on(caller, do: Snakepit.execute("echo", args, pool: pool))
      tensor = Snakepit.Tensor.from_list([1.0, 2.0], :float32)

      assert {:ok, %{"a" => ^tensor, "b" => "2026-01-01"}} =
               on(
                 caller,
                 do: Snakepit.execute("echo", %{a: tensor, b: ~D[2026-01-01]}, pool: pool)
               )

      assert [] = on(caller, do: Process.info(self(), :messages) |> elem(1))
    end

    test "passes its options on", %{caller: caller, pool: pool} do
      options = [pool: pool, request_id: "mine-1", metadata: [tenant: "t1"], timeout: patience()]

      assert {:ok, %{"id" => "mine-1", "metadata" => %{"tenant" => "t1"}, "remaining" => left}} =
               on(caller, do: Snakepit.execute("request", %{}, options))

      assert left > 0 and left <= patience() / 1000

      assert {:error, %Error{reason: :invalid_options}} =
               on(caller, do: Snakepit.execute("request", %{}, pool: pool, nonsense: 1))
    end

    test "returns the errors of the other node as they are", context do
      %{caller: caller, owner: owner, pool: pool} = context

      for {command, args} <- [
            {"fail", %{message: "boom"}},
            {"pong", %{}},
            {"add", %{c: 1}},
            {1, %{}}
          ] do
        options = [request_id: "r"]

        assert {:error, %Error{} = here} =
                 on(owner, do: Snakepit.execute(command, args, [pool: Far] ++ options))

        assert {:error, %Error{} = error} =
                 on(caller, do: Snakepit.execute(command, args, [pool: pool] ++ options))

        frames = fn error -> Map.drop(error.details, [:frames, :traceback]) end
        assert %{error | details: frames.(error)} == %{here | details: frames.(here), pool: pool}
        assert is_binary(Exception.message(error))
      end

      for args <- [%{a: [self()]}, [1], "x"] do
        assert {:error, %Error{reason: :invalid_args, pool: ^pool}} =
                 on(caller, do: Snakepit.execute("echo", args, pool: pool))
      end

      nowhere = {:nowhere, owner.node}

      assert {:error, %Error{reason: :pool_stopped, pool: ^nowhere}} =
               on(caller, do: Snakepit.execute("ping", %{}, pool: nowhere))

      assert {:error, %Error{reason: :pool_stopped, pool: ^nowhere}} =
               on(caller, do: Snakepit.execute_stream("ping", %{}, & &1, pool: nowhere))
    end

    test "has its deadline there", %{caller: caller, pool: pool, tmp_dir: dir} do
      args = %{started: Path.join(dir, "started"), seen: Path.join(dir, "seen")}

      assert {:error, %Error{reason: :timeout, pool: ^pool}} =
               on(caller, do: Snakepit.execute("wait_cancelled", args, pool: pool, timeout: 500))

      eventually(fn -> File.exists?(args.seen) or not File.exists?(args.started) end)
      assert on(caller, do: Process.info(self(), :messages) |> elem(1)) == []
    end

    test "is cancelled when its caller dies", %{caller: caller, pool: pool, tmp_dir: dir} do
      args = %{started: Path.join(dir, "started"), seen: Path.join(dir, "seen")}
      pid = spawn_on(caller, do: Snakepit.execute("wait_cancelled", args, pool: pool))
      started(args.started)
      on(caller, do: Process.exit(pid, :kill))
      started(args.seen)
    end

    test "reports its progress in the calling process", context do
      %{caller: caller, owner: owner, tmp_dir: dir} = context
      args = [class: "report_commands:Reports", paths: ["test/support/python"]]
      start_pool!(owner, Reporting, adapter_args: args)
      pool = {Reporting, owner.node}
      until = Path.join(dir, "until")

      {result, messages, me} =
        on caller do
          me = self()

          tell = fn progress ->
            send(me, {progress, self()})
            if progress.fraction == 0.4, do: File.write!(until, "")
          end

          result = Snakepit.execute("train_until", %{until: until}, pool: pool, on_progress: tell)

          {result, elem(Process.info(me, :messages), 1), me}
        end

      assert result == {:ok, %{"result" => "done"}}
      assert Enum.all?(messages, &match?({_progress, ^me}, &1))

      assert {%{fraction: 0.4, message: "epoch 2", request_id: id} = last, _} =
               List.last(messages)

      assert last.command == "train_until" and byte_size(id) > 8

      # An exception cancels the call, whose place is free then, and is raised.
      never = Path.join(dir, "never")

      assert {"mine", []} =
               (on caller do
                  fail = fn _progress -> raise "mine" end

                  try do
                    Snakepit.execute("train_until", %{until: never}, pool: pool, on_progress: fail)
                  rescue
                    error ->
                      {Exception.message(error), elem(Process.info(self(), :messages), 1)}
                  end
                end)

      File.write!(never, "")
      again = %{until: never}
      assert {:ok, _} = on(caller, do: Snakepit.execute("train_until", again, pool: pool))
      stop_pool!(owner, Reporting)
    end

    test "is made again by the other node", %{caller: caller, pool: pool, tmp_dir: dir} do
      args = %{path: Path.join(dir, "attempts"), failures: 2}
      retry = [on: [:python_error], backoff: {1, 5}]

      assert {:ok, %{"attempt" => 3}} =
               on(caller, do: Snakepit.execute("flaky", args, pool: pool, retry: retry))

      args = %{path: Path.join(dir, "more"), failures: 9}

      assert {:error, %Error{reason: :python_error, details: %{attempts: 3}}} =
               on(
                 caller,
                 do: Snakepit.execute("flaky", args, pool: pool, retry: [max: 2] ++ retry)
               )

      assert length(File.read!(args.path) |> String.split("\n", trim: true)) == 3
    end

    test "has a session there", %{caller: caller, owner: owner, pool: pool} do
      session = [pool: pool, session_id: "s"]

      for n <- 1..2 do
        assert {:ok, %{"count" => ^n}} = on(caller, do: Snakepit.execute("tally", %{}, session))
      end

      # It is that of the pool, whoever calls.
      assert {:ok, %{"count" => 3}} =
               on(owner, do: Snakepit.execute_in_session("s", "tally", %{}, pool: Far))

      assert :ok = on(caller, do: Snakepit.end_session("s", pool: pool))
      assert {:ok, %{"count" => 1}} = on(caller, do: Snakepit.execute("tally", %{}, session))
    end

    test "of many at once returns the results in order", context do
      %{caller: caller, pool: pool, tmp_dir: dir} = context

      assert Enum.to_list(1..200) ==
               (on caller do
                  "add"
                  |> Snakepit.map(Stream.map(1..200, &%{a: &1}), pool: pool)
                  |> Enum.map(fn {:ok, %{"result" => n}} -> n end)
                end)

      assert [{:ok, %{"result" => 1}}, {:error, %Error{reason: :invalid_args, pool: ^pool}}] =
               (on caller do
                  "add" |> Snakepit.map([%{a: 1}, %{c: 1}], pool: pool) |> Enum.to_list()
                end)

      # Halting cancels what runs.
      first = %{seen: Path.join(dir, "seen1"), started: Path.join(dir, "started1")}
      second = %{seen: Path.join(dir, "seen2"), started: Path.join(dir, "started2")}

      assert [] =
               (on caller do
                  wait = fn wait, path ->
                    File.exists?(path) or (Process.sleep(5) && wait.(wait, path))
                  end

                  elements =
                    Stream.map([first, second, :halt], fn
                      :halt ->
                        for %{started: path} <- [first, second], do: wait.(wait, path)
                        throw(:halt)

                      args ->
                        args
                    end)

                  try do
                    "wait_cancelled" |> Snakepit.map(elements, pool: pool) |> Enum.to_list()
                  catch
                    :halt -> elem(Process.info(self(), :messages), 1)
                  end
                end)

      started(first.seen)
      started(second.seen)

      assert {:error, %Error{reason: :pool_stopped}} =
               (on caller do
                  try do
                    "add"
                    |> Snakepit.map([%{}], pool: {:nowhere, elem(pool, 1)})
                    |> Enum.to_list()
                  rescue
                    error in Snakepit.Error -> {:error, error}
                  end
                end)
    end
  end

  describe "a stream" do
    test "arrives in order, in each way to consume it", %{caller: caller, pool: pool} do
      {indexes, final} =
        on caller do
          me = self()
          options = [pool: pool]
          index = &send(me, &1["index"])
          :ok = Snakepit.execute_stream("counted", %{count: 1000}, index, options)
          {:ok, nil} = Snakepit.run_stream("counted", %{count: 1000}, index, options)

          "counted" |> Snakepit.stream(%{count: 1000}, options) |> Enum.each(index)
          final = Snakepit.run_stream("counted", %{count: 0}, index, options)
          {:messages, messages} = Process.info(self(), :messages)
          {messages, final}
        end

      assert indexes == Enum.concat(List.duplicate(Enum.to_list(0..999), 3))
      assert final == {:ok, nil}

      # Only as many as were asked for.
      assert {[0, 1, 2], [], [3, 4], {:done, %{worker_id: "Far/1", request_id: <<_::binary>>}}} =
               (on caller do
                  {:ok, %{ref: ref} = call} =
                    Snakepit.start_stream("counted", %{count: 5}, pool: pool, demand: 3)

                  take = fn
                    _take, 0 ->
                      []

                    take, count ->
                      receive do
                        {:snakepit, ^ref, {:chunks, chunks}} ->
                          Enum.map(chunks, & &1["index"]) ++ take.(take, count - length(chunks))
                      end
                  end

                  first = take.(take, 3)
                  {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
                  {:messages, more} = Process.info(self(), :messages)
                  Snakepit.ask(call, 10)
                  rest = take.(take, 2)
                  receive do: ({:snakepit, ^ref, event} -> {first, more, rest, event})
                end)
    end

    test "ends with its error after its chunks", %{caller: caller, pool: pool} do
      {chunks, errors} =
        on caller do
          me = self()
          args = %{count: 2}
          each = &send(me, &1["index"])
          {:error, first} = Snakepit.execute_stream("fail_after", args, each, pool: pool)

          second =
            try do
              "fail_after" |> Snakepit.stream(args, pool: pool) |> Enum.each(each)
            rescue
              error in Snakepit.Error -> error
            end

          {:ok, %{ref: ref}} = Snakepit.start_stream("fail_after", args, pool: pool)

          third =
            receive do
              {:snakepit, ^ref, {:error, error}} -> error
            end

          {:messages, messages} = Process.info(self(), :messages)
          {for(n <- messages, is_integer(n), do: n), [first, second, third]}
        end

      assert chunks == [0, 1, 0, 1]

      for error <- errors do
        assert %Error{reason: :python_error, pool: ^pool, command: "fail_after"} = error
        assert %{type: "ValueError", message: "no more"} = error.details
      end
    end

    test "that its consumer halts or cancels is closed, and leaves nothing", context do
      %{caller: caller, pool: pool, tmp_dir: dir} = context
      closed = for n <- 1..3, do: Path.join(dir, "closed#{n}")

      assert [] =
               (on caller do
                  [first, second, third] = closed
                  halt = fn chunk -> if chunk["index"] == 300, do: :halt end
                  :ok = Snakepit.execute_stream("endless", %{closed: first}, halt, pool: pool)
                  stream = Snakepit.stream("endless", %{closed: second}, pool: pool)
                  [_, _] = Enum.take(stream, 2)

                  {:ok, %{ref: ref} = call} =
                    Snakepit.start_stream("endless", %{closed: third}, pool: pool, demand: 50)

                  receive do: ({:snakepit, ^ref, {:chunks, _chunks}} -> :ok)
                  Snakepit.ask(call, 50)
                  :ok = Snakepit.cancel(call)
                  :ok = Snakepit.cancel(call)
                  elem(Process.info(self(), :messages), 1)
                end)

      Enum.each(closed, &started/1)
      assert on(caller, do: elem(Process.info(self(), :messages), 1)) == []
    end

    for face <- @faces do
      test "of #{face} is closed when its consumer is killed", context do
        %{caller: caller, pool: pool, tmp_dir: dir} = context
        closed = Path.join(dir, "closed")
        first = Path.join(dir, "first")
        pid = consume(caller, unquote(face), "endless", %{closed: closed}, first, pool: pool)
        started(first)
        on(caller, do: Process.exit(pid, :kill))
        started(closed)
      end
    end

    test "is no further ahead of a consumer that pauses than on one node", context do
      %{caller: caller, owner: owner, pool: pool, tmp_dir: dir} = context

      # As in the tests of streams: chunks that are bounded by their number, and by their bytes.
      for {size, demand, most} <- [{16 * 1024, 4, 64}, {512 * 1024, 256, 8}] do
        path = Path.join(dir, "progress#{size}")
        until = Path.join(dir, "until#{size}")
        args = %{path: path, size: size}

        pid =
          spawn_on caller do
            paused = fn _chunk ->
              wait = fn wait -> File.exists?(until) or (Process.sleep(10) && wait.(wait)) end
              wait.(wait)
              :halt
            end

            Snakepit.execute_stream("progress", args, paused, pool: pool, demand: demand)
          end

        eventually(fn -> progress(path) >= 1 end)
        # Whatever is on its way arrives meanwhile.
        for _ <- 1..100, do: {:ok, _} = on(owner, do: Snakepit.execute("ping", %{}, pool: Far))
        for _ <- 1..10, do: {:ok, _} = on(caller, do: Snakepit.execute("ping", %{}, pool: pool))
        assert progress(path) in 1..most
        assert on(caller, do: elem(Process.info(pid, :message_queue_len), 1)) <= demand
        File.write!(until, "")
      end
    end
  end

  test "telemetry tells of a call on both nodes", %{caller: caller, owner: owner, pool: pool} do
    node = owner.node

    for peer <- [caller, owner] do
      on peer do
        tell = fn [:snakepit, :call, event], measurements, metadata, table ->
          :ets.insert(table, {metadata.request_id, event, measurements, metadata})
        end

        spawn(fn ->
          :ets.new(:told, [:named_table, :public, :duplicate_bag])
          Process.sleep(:infinity)
        end)

        wait = fn wait ->
          :ets.whereis(:told) != :undefined or (Process.sleep(5) && wait.(wait))
        end

        wait.(wait)

        for event <- [:start, :stop, :exception] do
          :ok = :telemetry.attach({:told, event}, [:snakepit, :call, event], tell, :told)
        end
      end
    end

    on caller do
      {:ok, _} = Snakepit.execute("ping", %{}, pool: pool, request_id: "good")
      {:error, _} = Snakepit.execute("fail", %{message: "x"}, pool: pool, request_id: "bad")
      :ok = Snakepit.execute_stream("counted", %{count: 3}, & &1, pool: pool, request_id: "flow")
      options = [pool: pool, request_id: "sent"]
      {:ok, %{ref: ref}} = Snakepit.start_stream("counted", %{count: 3}, options)
      receive do: ({:snakepit, ^ref, {:done, _info}} -> :ok)

      {:ok, call} =
        Snakepit.start_stream("counted", %{count: 3}, pool: pool, request_id: "gone", demand: 1)

      receive do: ({:snakepit, _ref, {:chunks, [_]}} -> Snakepit.cancel(call))
    end

    told = fn peer, id ->
      events = on(peer, do: :ets.lookup(:told, id))
      if length(events) == 2, do: for({_id, event, m, meta} <- events, do: {event, m, meta})
    end

    for peer <- [caller, owner],
        {id, last} <- [good: :stop, bad: :exception, flow: :stop, sent: :stop, gone: :stop],
        # The relay there is killed like any caller, which emits nothing.
        {peer, id} != {owner, :gone} do
      id = to_string(id)

      assert [{:start, _, _}, {^last, measurements, metadata}] =
               eventually(fn -> told.(peer, id) end)

      assert %{pool: Far, node: ^node} = metadata
      if last == :stop, do: assert(metadata.halted == (id == "gone"))
      if id in ~w(good flow sent), do: assert(%{queue_time: _, execution_time: _} = measurements)
      if id in ~w(flow sent), do: assert(%{chunks: 3, first_chunk_time: _} = measurements)
    end

    for peer <- [caller, owner], event <- [:start, :stop, :exception] do
      call(peer, :telemetry, :detach, [{:told, event}])
    end
  end

  test "callers that are killed at any moment leave nothing behind", context do
    %{caller: caller, owner: owner, pool: pool, tmp_dir: dir} = context

    on caller do
      for n <- 1..100 do
        file = Path.join(dir, to_string(n))
        options = [pool: pool]

        pid =
          spawn(fn ->
            if rem(n, 2) == 0,
              do: Snakepit.execute("wait_cancelled", %{seen: file}, options),
              else: Snakepit.execute_stream("endless", %{closed: file}, & &1, options)
          end)

        for _ <- 1..(n * n), do: :erlang.yield()
        Process.exit(pid, :kill)
      end
    end

    eventually(fn -> relays(caller) == 0 and relays(owner) == 0 end)

    eventually(fn ->
      match?({:ok, %{in_flight: 0, queued: 0}}, on(owner, do: Snakepit.stats(Far)))
    end)

    assert {:ok, _} = on(caller, do: Snakepit.execute("ping", %{}, pool: pool))
  end

  # The number of relays on a node.
  defp relays(peer) do
    on peer do
      serving = fn pid ->
        Process.info(pid, :initial_call) == {:initial_call, {Snakepit.Relay, :serve, 2}}
      end

      waiting = fn pid ->
        Process.info(pid, :current_function) == {:current_function, {Snakepit.Relay, :relay, 1}}
      end

      Enum.count(Process.list(), &(serving.(&1) or waiting.(&1)))
    end
  end

  describe "a lost node" do
    test "has its calls and streams cancelled", %{pool: pool, tmp_dir: dir} do
      victim = Peers.start!()
      closed = Path.join(dir, "closed")
      first = Path.join(dir, "first")
      call = %{started: Path.join(dir, "started"), seen: Path.join(dir, "seen")}
      consume(victim, :start_stream, "endless", %{closed: closed}, first, pool: pool)
      spawn_on(victim, do: Snakepit.execute("wait_cancelled", call, pool: pool))
      started(first)
      started(call.started)
      Peers.kill!(victim)
      started(closed)
      started(call.seen)
    end

    test "is an error of its callers when the link is cut, and the commands are cancelled",
         context do
      %{owner: owner, third: third, pool: pool, tmp_dir: dir} = context
      closed = for face <- @faces, do: {face, Path.join(dir, "closed_#{face}")}
      call = %{started: Path.join(dir, "started"), seen: Path.join(dir, "seen")}
      places = %{started: Path.join(dir, "place"), until: Path.join(dir, "until")}
      start_pool!(owner, Cut, max_concurrency: 8)
      pool = put_elem(pool, 0, Cut)

      on third do
        {:ok, results} = Agent.start(fn -> [] end)
        Process.register(results, :results)
      end

      for {face, path} <- closed do
        spawn_on third do
          note = fn result -> Agent.update(:results, &[{face, result} | &1]) end
          args = %{closed: path}
          first = fn _chunk -> File.write!(path <> "_first", "") end

          case face do
            :execute_stream ->
              note.(Snakepit.execute_stream("endless", args, first, pool: pool))

            :run_stream ->
              note.(Snakepit.run_stream("endless", args, first, pool: pool))

            :stream ->
              try do
                "endless" |> Snakepit.stream(args, pool: pool) |> Enum.each(first)
              rescue
                error -> note.({:error, error})
              end

            :start_stream ->
              {:ok, %{ref: ref}} = Snakepit.start_stream("endless", args, pool: pool, demand: 1)
              receive do: ({:snakepit, ^ref, {:chunks, [chunk]}} -> first.(chunk))
              receive do: ({:snakepit, ^ref, event} -> note.(event))
              # Nothing comes after the end.
              receive do
                other -> note.({:unexpected, other})
              after
                1_000 -> :ok
              end
          end
        end
      end

      spawn_on third do
        result = Snakepit.execute("wait_cancelled", call, pool: pool)
        Agent.update(:results, &[{:execute, result} | &1])
      end

      for {_face, path} <- closed, do: started(path <> "_first")
      started(call.started)
      node = owner.node
      disconnect(third, node)
      for {_face, path} <- closed, do: started(path)
      started(call.seen)

      results =
        eventually(fn ->
          results = on(third, do: Agent.get(:results, & &1))
          if length(results) == 5, do: results
        end)

      for {_face, {:error, error}} <- results do
        assert %Error{reason: :node_unavailable, pool: ^pool, details: details} = error
        refute is_map_key(details, :started)
        assert Error.may_have_run?(error)
        assert error.message =~ "the connection to the node #{node} was lost"
      end

      # The next call connects again; `retry:` makes such a call again by itself.
      spawn_on third do
        retry = [on: [:node_unavailable], backoff: {1, 5}]
        result = Snakepit.execute("hold", places, pool: pool, retry: retry)
        Agent.update(:results, fn _results -> [{:again, result}] end)
      end

      started(places.started)
      File.rm!(places.started)
      disconnect(third, node)
      started(places.started)
      File.write!(places.until, "")

      assert [{:again, {:ok, %{"pid" => _}}}] =
               eventually(fn ->
                 results = on(third, do: Agent.get(:results, & &1))
                 if match?([{:again, _}], results), do: results
               end)

      stop_pool!(owner, Cut)
    end

    test "that is not connected, or runs another version, says so", context do
      %{caller: caller, owner: owner} = context
      nobody = {Far, :"nobody@127.0.0.1"}

      for ask <- [
            fn -> on(caller, do: Snakepit.execute("ping", %{}, pool: nobody)) end,
            fn -> on(caller, do: Snakepit.execute_stream("ping", %{}, & &1, pool: nobody)) end,
            fn -> on(caller, do: Snakepit.stats(nobody)) end
          ] do
        assert {:error, %Error{reason: :node_unavailable, pool: ^nobody} = error} = ask.()
        assert error.message =~ "the node nobody@127.0.0.1 is not connected"
        assert error.details == %{started: false}
        refute Error.may_have_run?(error)
      end

      # This BEAM is no node.
      assert {:error, %Error{reason: :node_unavailable, message: message}} =
               Snakepit.execute("ping", %{}, pool: nobody)

      assert message =~ "start it with --name or --sname"

      without = Peers.start!(snakepit: false, paths: [])
      # The crash there is logged here.
      call(caller, Logger, :configure, [[level: :none]])
      pool = {Far, without.node}

      for ask <- [
            fn -> on(caller, do: Snakepit.execute("ping", %{}, pool: pool)) end,
            fn -> on(caller, do: Snakepit.health(pool)) end
          ] do
        assert {:error, %Error{reason: :node_unavailable, message: message}} = ask.()
        assert message =~ "it runs no Snakepit, or a version without calls between nodes"
      end

      # What a later version says to the messages of this one, and this one to those of a later version.
      answer =
        on owner do
          {_pid, monitor} = spawn_monitor(Snakepit.Relay, :serve, [99, %{more: true}])
          receive do: ({:DOWN, ^monitor, _, _, reason} -> reason)
        end

      assert {:shutdown, {:snakepit_relay, {:version, 1}}} = answer

      call(caller, Logger, :configure, [[level: :error]])

      call(without, :code, :load_binary, [
        Snakepit.Relay,
        ~c"relay.ex",
        later_relay()
      ])

      assert {:error, %Error{reason: :node_unavailable, message: message}} =
               on(caller, do: Snakepit.execute("ping", %{}, pool: pool))

      assert message =~ "messages between nodes are of version 2"
      assert message =~ "use the same version of Snakepit on both"
    end

    # In Erlang, since that node has no Elixir.
    defp later_relay do
      forms = [
        "-module('Elixir.Snakepit.Relay').",
        "-export([serve/2]).",
        "serve(1, _) -> exit({shutdown, {snakepit_relay, {version, 2}}})."
      ]

      forms =
        for form <- forms do
          {:ok, tokens, _} = :erl_scan.string(to_charlist(form))
          {:ok, form} = :erl_parse.parse_form(tokens)
          form
        end

      {:ok, _module, binary} = :compile.forms(forms)
      binary
    end
  end

  describe "the pool of any node" do
    test "is that of the own node, else that of one which has it", context do
      %{caller: caller, owner: owner, third: third} = context
      owner_node = owner.node
      third_node = third.node
      any = [pool: {Anywhere, :any}]

      assert {:error, %Error{reason: :pool_stopped, message: message}} =
               on(caller, do: Snakepit.execute("pid", %{}, any))

      assert message =~ "no pool Anywhere runs on this node or on a node that it is connected to"
      true = on(caller, do: Node.connect(owner_node) and Node.connect(third_node))
      start_pool!(owner, Anywhere)
      start_pool!(third, Anywhere, await_ready: true)
      nodes = Enum.sort([owner_node, third_node])
      eventually(fn -> Enum.sort(on(caller, do: Snakepit.nodes(Anywhere))) == nodes end)
      assert [^third_node, ^owner_node] = on(third, do: Snakepit.nodes(Anywhere))
      pids = for peer <- [owner, third], do: pid_of(peer, Anywhere)

      # From a node without it to all that have it, once they are known to it; from one that has it to its own.
      eventually(fn -> MapSet.new(answers(caller, Anywhere)) == MapSet.new(pids) end)

      for {peer, pid} <- Enum.zip([owner, third], pids),
          do: assert(answers(peer, Anywhere) == [pid])

      # A map uses all of them.
      assert MapSet.new(pids) ==
               (on caller do
                  "pid"
                  |> Snakepit.map(List.duplicate(%{}, 50), any)
                  |> MapSet.new(fn {:ok, %{"pid" => pid}} -> pid end)
                end)

      assert {:ok, [_ | _]} = on(caller, do: Snakepit.commands({Anywhere, :any}))

      assert {:error, %Error{reason: :invalid_options, message: message}} =
               on(caller, do: Snakepit.stats({Anywhere, :any}))

      assert message =~ "Snakepit.nodes/1"

      # A session stays where it is.
      for affinity <- [[], [affinity: :strict]] do
        assert {:error, %Error{reason: :invalid_options, message: message}} =
                 on(caller, do: Snakepit.execute_in_session("s", "tally", %{}, any ++ affinity))

        assert message =~ "a session lives on one node"
      end

      assert Enum.to_list(1..20) ==
               (on caller do
                  options = [affinity: :prefer] ++ any
                  count = &elem(Snakepit.execute_in_session("s", "tally", %{}, &1), 1)["count"]
                  for _ <- 1..20, do: count.(options)
                end)

      # One that stops or is lost is not chosen any more, and no call fails because of it.
      stop_pool!(third, Anywhere)
      [pid | _] = pids
      assert answers(caller, Anywhere) == [pid]
      assert {:ok, %{"pid" => ^pid}} = on(third, do: Snakepit.execute("pid", %{}, any))
      stop_pool!(owner, Anywhere)
    end

    test "is one with a ready worker, if there is one", context do
      %{caller: caller, owner: owner, third: third} = context
      third_node = third.node
      true = on(caller, do: Node.connect(third_node))
      start_pool!(owner, Slow, size: 1)
      any = [pool: {Slow, :any}]
      pid = pid_of(owner, Slow)

      # It never gets a worker.
      call(third, Logger, :configure, [[level: :none]])

      on third do
        options = [name: Slow, python: "/no/such/python", restart_backoff: {100, 200}]

        spawn(fn ->
          {:ok, _} = Snakepit.Pool.start_link(options)
          Process.sleep(:infinity)
        end)
      end

      eventually(fn -> third_node in on(caller, do: Snakepit.nodes(Slow)) end)

      owner_node = owner.node
      true = on(third, do: Node.connect(owner_node))
      for peer <- [caller, third], do: eventually(fn -> answers(peer, Slow) == [pid] end)

      # The groups are found again by the pools when their process has ended.
      on(caller, do: Process.exit(Process.whereis(Snakepit.Pool.Group), :kill))
      on(owner, do: Process.exit(Process.whereis(Snakepit.Pool.Group), :kill))

      eventually(fn ->
        match?({:ok, %{"pid" => ^pid}}, on(caller, do: Snakepit.execute("pid", %{}, any)))
      end)

      stop_pool!(owner, Slow)
    end

    # The different answers of many calls to the pool of any node: its worker's process, or the error's reason.
    defp answers(peer, name) do
      on peer do
        answer = fn
          {:ok, %{"pid" => pid}} -> pid
          {:error, error} -> error.reason
        end

        Enum.uniq(for _ <- 1..50, do: answer.(Snakepit.execute("pid", %{}, pool: {name, :any})))
      end
    end

    defp pid_of(peer, pool) do
      {:ok, %{"pid" => pid}} = on(peer, do: Snakepit.execute("pid", %{}, pool: pool))
      pid
    end
  end

  test "code runs in an interpreter on another node, and prints here", context do
    %{caller: caller, owner: owner} = context
    start_pool!(owner, Explore, adapter_args: [class: "snakepit_bridge:Interpreter"])
    pool = {Explore, owner.node}

    assert {{:ok, 5}, "hello\n"} =
             (on caller do
                {:ok, printed} = Agent.start_link(fn -> "" end)
                take = fn text -> Agent.update(printed, &(&1 <> text)) end
                code = "print('hello')\nx + 2"
                result = Snakepit.eval(code, %{x: 3}, pool: pool, on_output: take)
                {result, Agent.get(printed, & &1)}
              end)

    stop_pool!(owner, Explore)
  end

  test "the state of a pool on another node", %{caller: caller, pool: pool, owner: owner} do
    assert {:ok, %{healthy: true, ready: 1}} = on(caller, do: Snakepit.health(pool))
    assert {:ok, %{ready: 1, calls: _}} = on(caller, do: Snakepit.stats(pool))
    assert {:ok, %{size: 1, max_concurrency: 4}} = on(caller, do: Snakepit.info(pool))
    assert {:ok, [%{state: :ready}]} = on(caller, do: Snakepit.list_workers(pool))
    assert {:ok, commands} = on(caller, do: Snakepit.commands(pool))
    assert Enum.any?(commands, &(&1.name == "counted"))
    assert :ok = on(caller, do: Snakepit.Pool.await_ready(pool))
    start_pool!(owner, Other)
    other = put_elem(pool, 0, Other)
    pid = pid_of(owner, Other)
    assert :ok = on(caller, do: Snakepit.restart(other))
    assert pid_of(owner, Other) != pid

    assert {:error, %Error{reason: :invalid_options, pool: ^other}} =
             on(caller, do: Snakepit.resize(other, 0))

    stop_pool!(owner, Other)
  end

  test "calls and streams end after their deadlines though the connection to their node stands still" do
    [owner, caller] = for _ <- 1..2, do: Peers.start!()
    far = owner.node
    start_pool!(owner, Far)
    assert on(caller, do: Node.connect(far))
    os_pid = Peers.call(owner, System, :pid, [])

    results =
      on caller do
        fill = fn fill ->
          with :ok <-
                 :erlang.send({:nobody, far}, String.duplicate("x", 100_000), [:nosuspend]),
               do: fill.(fill)
        end

        args =
          Stream.map(1..5, fn number ->
            if number == 1 do
              {_output, 0} = System.cmd("kill", ["-STOP", os_pid])
              :nosuspend = fill.(fill)
            end

            %{}
          end)

        pool = {Far, far}
        take = fn _chunk -> :ok end

        # The first asks the node how many calls it takes, before that stands still.
        [
          Enum.to_list(Snakepit.map("ping", args, pool: pool, timeout: 100, max_in_flight: 5)),
          Snakepit.execute("ping", %{}, pool: pool, timeout: 100),
          Snakepit.execute_stream("count", %{"to" => 3}, take, pool: pool, timeout: 100)
        ]
      end

    signal("CONT", String.to_integer(os_pid))
    assert [mapped, called, streamed] = results

    for result <- mapped ++ [called, streamed] do
      assert {:error, %Error{reason: :timeout, pool: {Far, ^far}, message: message}} = result
      assert message =~ "stands still"
    end
  end
end
