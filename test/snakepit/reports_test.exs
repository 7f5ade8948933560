defmodule Snakepit.ReportsTest do
  # What commands report while their calls run: progress to the caller, events for telemetry.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  @event [:snakepit, :python, :event]

  setup_all do
    args = [class: "report_commands:Reports", paths: [Path.expand("../support/python", __DIR__)]]

    pools =
      for {kind, options} <- ways(), into: %{} do
        options = Keyword.merge([adapter_args: args, max_concurrency: 4], options)
        {kind, start_pool!(options)}
      end

    %{pools: pools}
  end

  defp run(pool, command, args, options \\ []),
    do: Snakepit.execute(command, args, [pool: pool] ++ options)

  # Returns a function for `on_progress:` that sends each report here.
  defp tell do
    me = self()
    &send(me, {:reported, &1})
  end

  defp reported do
    receive do
      {:reported, report} -> [report | reported()]
    after
      0 -> []
    end
  end

  defp attach(pool) do
    me = self()
    id = {me, make_ref()}
    :ok = :telemetry.attach(id, @event, &__MODULE__.tell_event/4, {me, pool})
    on_exit(fn -> :telemetry.detach(id) end)
  end

  def tell_event(_event, measurements, metadata, {pid, pool}) do
    if metadata.pool == pool, do: send(pid, {:event, measurements, metadata})
  end

  for {kind, _options} <- [Native: [], Grpcio: [], Stdio: []] do
    describe "#{kind}:" do
      setup %{pools: pools}, do: %{pool: Map.fetch!(pools, unquote(kind))}

      test "progress reaches a function in the caller's process, the last before the result", %{
        pool: pool
      } do
        for command <- ["train", "train_async"] do
          me = self()

          on_progress = fn report ->
            assert self() == me
            send(me, {:reported, report})
          end

          options = [on_progress: on_progress, request_id: "r-#{command}"]
          assert {:ok, %{"result" => 500}} = run(pool, command, %{epochs: 500}, options)
          reports = reported()

          assert List.last(reports) == %{
                   fraction: 1.0,
                   message: "epoch 500",
                   command: command,
                   request_id: "r-#{command}"
                 }

          fractions = Enum.map(reports, & &1.fraction)
          assert fractions == Enum.sort(fractions)
          assert length(reports) < 500
        end
      end

      test "progress reaches a process", %{pool: pool} do
        assert {:ok, _} = run(pool, "train_in_thread", %{}, on_progress: self())
        assert_received {:snakepit_progress, %{fraction: 0.5, message: "half", request_id: id}}
        assert is_binary(id)
        refute_received {:snakepit_progress, _}
      end

      @tag :tmp_dir
      test "a report that had to wait arrives while the call runs, and shows in list_workers/1",
           %{
             pool: pool,
             tmp_dir: dir
           } do
        until = Path.join(dir, "until")
        options = [pool: pool, on_progress: tell()]
        task = Task.async(Snakepit, :execute, ["train_until", %{until: until}, options])
        assert_receive {:reported, %{fraction: 0.4, message: "epoch 2"}}

        shown =
          eventually(fn ->
            {:ok, [worker]} = Snakepit.list_workers(pool)
            Enum.find(worker.progress, &(&1.command == "train_until"))
          end)

        assert %{fraction: 0.4, message: "epoch 2", request_id: id} = shown
        assert is_binary(id)
        File.touch!(until)
        assert {:ok, %{"result" => "done"}} = await(task)
        refute_received {:reported, %{fraction: 0.4}}
        eventually(fn -> match?({:ok, [%{progress: []}]}, Snakepit.list_workers(pool)) end)
      end

      test "the last report arrives before an error", %{pool: pool} do
        assert {:error, %Error{reason: :python_error}} =
                 run(pool, "fail", %{}, on_progress: tell())

        assert %{fraction: 0.9, message: "last"} = List.last(reported())
      end

      test "a function that raises cancels the call", %{pool: pool} do
        args = %{until: "/nowhere/until"}

        assert_raise RuntimeError, "enough", fn ->
          run(pool, "train_until", args, on_progress: fn _report -> raise "enough" end)
        end

        eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end)
        refute_received _
      end

      test "a function that raises once the reply has come leaves that to nobody", %{pool: pool} do
        replied? = fn ->
          {:messages, messages} = Process.info(self(), :messages)
          Enum.any?(messages, &(is_tuple(&1) and is_reference(elem(&1, 0))))
        end

        on_progress = fn _report ->
          eventually(replied?)
          raise "enough"
        end

        for tools <- [[], [tools: [unused: fn _args -> nil end]]] do
          assert_raise RuntimeError, "enough", fn ->
            run(pool, "train", %{epochs: 1}, [on_progress: on_progress] ++ tools)
          end

          eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end)
          refute_received _
        end
      end

      test "without on_progress: nothing is sent", %{pool: pool} do
        assert {:ok, %{"result" => 500}} = run(pool, "train", %{epochs: 500})
        refute_received _
      end

      test "an event arrives with its values and the ids of its call", %{pool: pool} do
        attach(pool)
        session = "s-#{System.unique_integer()}"
        options = [request_id: "mine", session_id: session]
        assert {:ok, %{"result" => 3}} = run(pool, "load", %{file: "é.csv"}, options)
        assert_receive {:event, %{"rows" => 3, "seconds" => 0.5} = measurements, metadata}
        assert map_size(measurements) == 2

        assert metadata == %{
                 name: "load",
                 metadata: %{"file" => "é.csv", "tags" => ["a", nil]},
                 pool: pool,
                 worker_id: "#{inspect(pool)}/1",
                 command: "load",
                 request_id: "mine",
                 session_id: session
               }

        assert_receive {:event, none, %{name: "empty", metadata: also_none}}
        assert {none, also_none} == {%{}, %{}}
        assert {:ok, _} = run(pool, "load_async", %{})
        assert_receive {:event, %{"rows" => 3}, %{command: "load_async", session_id: nil}}
      end

      test "an event that cannot be sent is an error of the command", %{pool: pool} do
        for {what, type, text} <- [
              {"name", "ValueError", "expected the event's name, a text of 1 to 200 characters"},
              {"text", "TypeError", "'rows' is of type str: put it into the metadata"},
              {"nan", "ValueError", "the measurement 'rows' of 'load' is nan"},
              {"object", "TypeError", "metadata.model is of type object"},
              {"large", "ValueError", "and the limit is 16384"},
              {"fraction", "ValueError", "expected a fraction from 0 to 1, got nan"}
            ] do
          assert {:error, %Error{reason: :python_error, message: message} = error} =
                   run(pool, "wrong", %{what: what})

          assert error.details.type == type
          assert message =~ text
        end
      end
    end
  end

  for kind <- [:Native, :Grpcio] do
    test "#{kind}: a stream reports events beside its chunks", %{pools: pools} do
      pool = pools[unquote(kind)]
      attach(pool)

      for {command, last} <- [{"load_parts", ["end"]}, {"load_parts_async", []}] do
        chunks = Enum.map(Snakepit.stream(command, %{}, pool: pool), & &1["result"])
        assert chunks == [0, 1, 2]

        for name <- ["part", "part", "part"] ++ last do
          assert_receive {:event, %{"rows" => _}, %{name: ^name, command: ^command}}
        end
      end
    end
  end

  test "a worker sends a limited number of events", %{pools: %{Native: pool}} do
    attach(pool)
    assert {:ok, %{"result" => seconds}} = run(pool, "flood", %{count: 20_000})
    # Its events come after those.
    {:ok, _} = eventually(fn -> run_and_see(pool) end)
    count = flooded(0)
    assert count > 0 and count <= 1_000 + 1_000 * (seconds + 1)
  end

  # Its first event may be one too many.
  defp run_and_see(pool) do
    with {:ok, _} = result <- run(pool, "load", %{}) do
      receive do
        {:event, _values, %{name: "empty"}} -> result
      after
        100 -> nil
      end
    end
  end

  defp flooded(count) do
    receive do
      {:event, _values, %{name: "flood"}} -> flooded(count + 1)
    after
      0 -> count
    end
  end

  test "a stream takes no on_progress:", %{pools: %{Native: pool}} do
    assert {:error, %Error{reason: :invalid_options, message: message}} =
             Snakepit.execute_stream("load_parts", %{}, & &1, pool: pool, on_progress: self())

    assert message =~ "unknown option :on_progress"

    assert {:error, %Error{reason: :invalid_options, message: message}} =
             run(pool, "load", %{}, on_progress: :me)

    assert message =~ "the option :on_progress must be a function of one argument, or a pid"
  end

  test "Stdio: a report that comes after the function has raised is not left to the caller", %{
    pools: %{Stdio: pool}
  } do
    [worker] = worker_pids(pool)

    on_progress = fn _report ->
      :ok = :sys.suspend(worker)
      eventually(fn -> Process.info(worker, :message_queue_len) > {:message_queue_len, 0} end)
      raise "enough"
    end

    assert_raise RuntimeError, "enough", fn ->
      run(pool, "train_until", %{until: "/nowhere/until"}, on_progress: on_progress)
    end

    :ok = :sys.resume(worker)
    eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end)
    refute_received _
  end
end
