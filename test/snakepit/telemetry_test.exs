defmodule Snakepit.TelemetryTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Error, Telemetry}

  @moduletag :tmp_dir

  setup do
    me = self()

    for event <- Telemetry.events() do
      :ok = :telemetry.attach({me, event}, event, &__MODULE__.tell/4, me)
    end

    on_exit(fn -> for event <- Telemetry.events(), do: :telemetry.detach({me, event}) end)
  end

  def tell(event, measurements, metadata, pid), do: send(pid, {event, measurements, metadata})

  defp assert_ended(pool, command, how) do
    assert_receive {[:snakepit, :call, :cancelled], %{duration: duration},
                    %{pool: ^pool, command: ^command, how: ^how} = metadata}

    assert duration > 0
    assert %{request_id: request_id, worker_id: worker_id} = metadata
    assert byte_size(request_id) > 0 and byte_size(worker_id) > 0
  end

  test "halting a stream closes its generator", %{tmp_dir: dir} do
    pool = start_pool!()
    args = %{closed: Path.join(dir, "closed")}
    :ok = Snakepit.execute_stream("endless", args, fn _ -> :halt end, pool: pool)
    assert_ended(pool, "endless", :closed)
    assert File.exists?(args.closed)
  end

  test "halting an async stream cancels its task" do
    pool = start_pool!()
    args = %{count: 1_000_000}
    :ok = Snakepit.execute_stream("counted_async", args, fn _ -> :halt end, pool: pool)
    assert_ended(pool, "counted_async", :closed)
  end

  test "a handler that notices its cancellation stops on its own", %{tmp_dir: dir} do
    pool = start_pool!()
    args = %{seen: Path.join(dir, "seen"), started: Path.join(dir, "started")}
    run_out!("wait_cancelled", args, pool: pool, request_id: "mine")
    assert_ended(pool, "wait_cancelled", :stopped)
  end

  test "a handler that continues past the grace period is killed", %{tmp_dir: dir} do
    pool = start_pool!(kill_grace: 100)
    run_out!("sleep", %{seconds: 600, started: Path.join(dir, "started")}, pool: pool)
    assert_ended(pool, "sleep", :killed)
  end

  test "a call that finishes is not reported" do
    pool = start_pool!()
    :ok = Snakepit.execute_stream("counted", %{count: 3}, fn _ -> nil end, pool: pool)
    {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
    refute_received {[:snakepit, :call, :cancelled], _measurements, %{pool: ^pool}}
  end

  # The next event of this pool with this name; events of other pools are ignored.
  defp event(pool, name) do
    event = [:snakepit | name]
    assert_receive {^event, measurements, %{pool: ^pool} = metadata}
    {measurements, metadata}
  end

  # The misses of its workers, the last first.
  defp missed(pool, told) do
    receive do
      {[_, :health, :failed], %{missed: missed},
       %{pool: ^pool, worker_id: id, why: <<_, _::binary>>}} ->
        missed(pool, [{missed, id} | told])
    after
      0 -> told
    end
  end

  defp files(dir), do: %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}

  describe "a call" do
    test "is a span with its queue and execution times" do
      pool = start_pool!()
      options = [pool: pool, request_id: "mine", session_id: "s", priority: :low]
      {:ok, _} = Snakepit.execute("add", %{a: 1}, options)

      assert {%{monotonic_time: _, system_time: _}, start} = event(pool, [:call, :start])
      assert %{command: "add", streaming: false, request_id: "mine", session_id: "s"} = start
      assert start.priority == :low
      assert {times, stop} = event(pool, [:call, :stop])
      assert Map.take(stop, Map.keys(start)) == start
      assert %{halted: false, worker_id: <<_, _::binary>>} = stop
      assert times.duration > 0 and times.execution_time > 0 and times.queue_time >= 0
      assert times.queue_time + times.execution_time <= times.duration
      refute is_map_key(times, :chunks)
    end

    test "that waits has the wait in its queue time", %{tmp_dir: dir} do
      pool = start_pool!()
      args = files(dir)

      held =
        Task.async(fn -> Snakepit.execute("hold_session", args, pool: pool, session_id: "s") end)

      eventually(fn -> File.exists?(args.started) end)
      waiting = Task.async(fn -> Snakepit.execute("add", %{a: 1}, pool: pool) end)
      eventually(fn -> match?({:ok, %{queued: 1}}, Snakepit.stats(pool)) end)
      waits = System.monotonic_time()
      {:ok, _} = Snakepit.list_workers(pool)
      waited = System.monotonic_time() - waits
      File.touch!(args.until)
      assert [{:ok, _}, {:ok, _}] = await_many([held, waiting])

      assert_receive {[_, :call, :stop], %{queue_time: queue_time},
                      %{pool: ^pool, command: "add"}}

      assert queue_time >= waited
    end

    test "that fails is an exception, with the error and its own request id" do
      pool = start_pool!()
      {:error, error} = Snakepit.execute("fail", %{message: "no"}, pool: pool)
      assert {_, %{request_id: id}} = event(pool, [:call, :start])
      assert {%{execution_time: _}, failed} = event(pool, [:call, :exception])
      assert %{kind: :error, reason: ^error, stacktrace: [], request_id: ^id} = failed
      assert error.request_id == id
      assert failed.worker_id == error.worker_id
    end

    test "over gRPC is also a request, with exactly the documented metadata" do
      pool = start_pool!()
      command = "no such command of #{pool}"
      {:error, _} = Snakepit.execute(command, %{}, pool: pool)

      assert_receive {[:snakepit, :grpc, :request], %{duration: duration} = measurements,
                      %{command: ^command} = metadata}

      assert duration > 0 and map_size(measurements) == 1
      assert metadata == %{command: command, streaming: false}
    end

    test "over stdin and stdout is not a request, and has the same span" do
      pool = start_pool!(adapter: Snakepit.Adapters.GenericPythonV2)
      {:ok, _} = Snakepit.execute("add", %{a: 1}, pool: pool)
      assert {_, %{request_id: id}} = event(pool, [:call, :start])

      assert {times, %{request_id: ^id, worker_id: <<_, _::binary>>}} =
               event(pool, [:call, :stop])

      assert times.execution_time > 0 and times.queue_time >= 0
    end

    test "that a full queue refuses is reported", %{tmp_dir: dir} do
      pool = start_pool!(max_queue: 0)
      args = files(dir)

      held =
        Task.async(fn -> Snakepit.execute("hold_session", args, pool: pool, session_id: "s") end)

      eventually(fn -> File.exists?(args.started) end)
      {:error, _} = Snakepit.execute("add", %{a: 1}, pool: pool)
      assert {%{max_queue: 0}, %{command: "add"}} = event(pool, [:queue, :full])
      File.touch!(args.until)
      await(held)
    end
  end

  describe "a stream" do
    setup do: %{pool: start_pool!()}

    test "has its chunks and the time to the first chunk, with each function", %{pool: pool} do
      args = %{count: 1_000}
      :ok = Snakepit.execute_stream("counted", args, fn _ -> nil end, pool: pool)
      assert [_ | _] = "counted" |> Snakepit.stream(args, pool: pool) |> Enum.to_list()
      {:ok, call} = Snakepit.start_stream("counted", args, pool: pool, demand: 2_000)
      ref = call.ref
      assert_receive {:snakepit, ^ref, {:done, _info}}
      Snakepit.cancel(call)

      for _face <- 1..3 do
        assert {_, %{streaming: true, telemetry_span_context: context}} =
                 event(pool, [:call, :start])

        assert {times, stop} = event(pool, [:call, :stop])

        assert %{telemetry_span_context: ^context, halted: false, worker_id: <<_, _::binary>>} =
                 stop

        assert %{chunks: 1_000, queue_time: _, execution_time: _} = times
        assert times.first_chunk_time > 0 and times.first_chunk_time <= times.duration
      end
    end

    test "that ends early is reported as halted, with each function", %{pool: pool, tmp_dir: dir} do
      args = %{closed: Path.join(dir, "closed")}
      :ok = Snakepit.execute_stream("endless", args, fn _ -> :halt end, pool: pool)
      [_] = "endless" |> Snakepit.stream(args, pool: pool) |> Enum.take(1)
      {:ok, call} = Snakepit.start_stream("endless", args, pool: pool, demand: 1)
      ref = call.ref
      assert_receive {:snakepit, ^ref, {:chunks, [_]}}
      Snakepit.cancel(call)

      for _face <- 1..3 do
        assert {%{chunks: chunks}, %{halted: true}} = event(pool, [:call, :stop])
        assert chunks > 0
      end

      refute_received {[:snakepit, :call, :stop], _, %{pool: ^pool}}
    end

    test "that fails is an exception, with each function", %{pool: pool} do
      args = %{count: 2}
      {:error, _} = Snakepit.execute_stream("fail_after", args, fn _ -> nil end, pool: pool)
      assert_raise Error, fn -> Enum.to_list(Snakepit.stream("fail_after", args, pool: pool)) end
      {:ok, call} = Snakepit.start_stream("fail_after", args, pool: pool, demand: 9)
      ref = call.ref
      assert_receive {:snakepit, ^ref, {:error, _}}
      Snakepit.cancel(call)

      for _face <- 1..3 do
        assert {%{chunks: 2}, failed} = event(pool, [:call, :exception])
        assert %{kind: :error, reason: %Error{reason: :python_error}} = failed
      end

      refute_received {[:snakepit, :call, :stop], _, %{pool: ^pool}}
    end

    test "whose callback raises is an exception with that error", %{pool: pool} do
      assert catch_throw(
               Snakepit.execute_stream("counted", %{count: 3}, fn _ -> throw(:ball) end,
                 pool: pool
               )
             ) == :ball

      assert {_, %{kind: :throw, reason: :ball, stacktrace: [_ | _]}} =
               event(pool, [:call, :exception])
    end
  end

  describe "a worker" do
    for adapter <- [Snakepit.Adapters.GRPCPython, Snakepit.Adapters.GenericPythonV2] do
      test "reports its start and end, with #{inspect(adapter)}" do
        # Its intervals are messages from this test.
        pool = start_pool!(adapter: unquote(adapter), health_interval: 600_000, health_misses: 3)
        id = "#{inspect(pool)}/1"

        assert {%{system_time: _}, %{worker_id: ^id, os_pid: os_pid}} =
                 event(pool, [:worker, :started])

        assert {%{duration: starting}, %{os_pid: ^os_pid}} = event(pool, [:worker, :ready])
        assert starting > 0

        signal("STOP", os_pid)
        [worker] = worker_pids(pool)
        # The question, and three intervals without an answer.
        for _ <- 0..3, do: send(worker, :check_health)

        assert {_, %{os_pid: ^os_pid, why: why}} = event(pool, [:worker, :killed])
        assert why =~ ":health_misses"
        assert {%{duration: _}, %{os_pid: ^os_pid, why: ^why}} = event(pool, [:worker, :stopped])
        assert {%{attempt: 1}, %{worker_id: ^id, why: ^why}} = event(pool, [:worker, :restarted])
        assert {_, %{worker_id: ^id, os_pid: next}} = event(pool, [:worker, :started])
        assert next != os_pid
        assert {_, %{os_pid: ^next}} = event(pool, [:worker, :ready])
        # It was killed with all its unanswered questions: no more misses, and one end.
        assert [3, 2, 1] = pool |> missed([]) |> Enum.map(fn {missed, ^id} -> missed end)
        refute_received {[_, :worker, :killed], _, %{pool: ^pool}}
        refute_received {[_, :worker, :stopped], _, %{pool: ^pool}}
        stop_supervised!({Snakepit.Pool, pool})
        assert_receive {[_, :worker, :stopped], _, %{pool: ^pool, why: :shutdown}}
      end
    end

    test "reports a command that lets nothing else run", %{tmp_dir: dir} do
      options = [health_interval: 200, health_misses: 1_000_000]
      pool = start_pool!(options ++ [shutdown_timeout: 1, kill_grace: 1])
      id = "#{inspect(pool)}/1"
      args = %{started: Path.join(dir, "started")}
      options = [pool: pool, timeout: :infinity]
      call = Task.async(fn -> Snakepit.execute("sleep_holding_the_gil", args, options) end)

      log =
        capture_log(fn ->
          assert {%{python_stuck_ms: ms}, %{worker_id: ^id}} = event(pool, [:health, :stuck])
          assert ms >= 1_000
        end)

      assert log =~ "let no other Python thread run"
      stop_supervised!({Snakepit.Pool, pool})
      # It ends on its own if the machine is slow.
      assert {answer, _} = await(call)
      assert answer in [:ok, :error]
    end

    test "that does not start is tried again, each attempt counted" do
      options = [adapter_args: [class: "nowhere:Class"], restart_backoff: {1, 1}]
      pool = start_pool_unready!(options)
      assert {%{attempt: 1}, %{why: why}} = event(pool, [:worker, :restarted])
      assert why =~ "nowhere"
      assert {%{attempt: 2}, _} = event(pool, [:worker, :restarted])
    end
  end

  describe "a session" do
    test "reports where it begins and moves, and how it ends", %{tmp_dir: dir} do
      pool = start_pool!(size: 2, max_sessions: 2)
      options = [pool: pool, affinity: :prefer]
      args = files(dir)
      held = Task.async(fn -> Snakepit.execute_in_session("s", "hold_session", args, options) end)
      assert {_, %{session_id: "s", worker_id: first}} = event(pool, [:session, :created])
      eventually(fn -> File.exists?(args.started) end)
      {:ok, _} = Snakepit.execute_in_session("s", "tally", %{}, options)
      assert {_, %{session_id: "s", worker_id: second}} = event(pool, [:session, :moved])
      assert second != first
      File.touch!(args.until)
      await(held)

      for id <- ["t", "u"], do: {:ok, _} = Snakepit.execute_in_session(id, "tally", %{}, options)
      assert {_, %{session_id: "s", worker_id: ^second}} = event(pool, [:session, :evicted])
      :ok = Snakepit.end_session("t", pool: pool)
      assert {_, %{session_id: "t", worker_id: nil}} = event(pool, [:session, :ended])

      {:error, _} = Snakepit.execute_in_session("u", "die", %{}, options)
      assert {_, %{session_id: "u"}} = event(pool, [:session, :lost])
    end

    test "expires without being accessed" do
      pool = start_pool!(session_ttl: 1)
      {:ok, _} = Snakepit.execute_in_session("s", "tally", %{}, pool: pool)

      assert {%{system_time: _}, %{session_id: "s", worker_id: <<_, _::binary>>}} =
               event(pool, [:session, :expired])
    end
  end

  test "a session for which a call waits does not expire", %{tmp_dir: dir} do
    pool = start_pool!(session_ttl: 1_000)

    # Before the call can wait, the session may expire.
    eventually(fn ->
      id = "waits #{System.unique_integer()}"
      {:ok, %{"count" => 1}} = Snakepit.execute_in_session(id, "tally", %{}, pool: pool)
      {:ok, _} = Snakepit.execute_in_session("used later", "tally", %{}, pool: pool)
      hold = files(dir |> Path.join(id) |> tap(&File.mkdir!/1))
      held = Task.async(fn -> Snakepit.execute("hold", hold, pool: pool) end)
      eventually(fn -> File.exists?(hold.started) end)
      waiting = Task.async(fn -> Snakepit.execute_in_session(id, "tally", %{}, pool: pool) end)
      expired = expired_until(pool, "used later")
      File.touch!(hold.until)
      await(held)
      assert {:ok, %{"count" => count}} = await(waiting)
      if id not in expired, do: assert(count == 2)
    end)
  end

  defp expired_until(pool, last) do
    {_, %{session_id: id}} = event(pool, [:session, :expired])
    if id == last, do: [], else: [id | expired_until(pool, last)]
  end

  test "a tool is a span, and its failure is logged with the call, the command and the tool" do
    pool = start_pool!()
    tool = fn %{"fail" => fail} -> if fail, do: raise("bad"), else: 1 end
    options = [pool: pool, request_id: "mine", tools: [tool: tool]]
    ask = &Snakepit.execute("ask", %{tool: "tool", args: %{fail: &1}}, options)
    {:ok, %{"value" => 1}} = ask.(false)
    assert {%{monotonic_time: _, system_time: _}, start} = event(pool, [:ask, :start])
    assert %{command: "ask", tool: "tool", ask_id: 1, request_id: "mine"} = start
    assert {%{duration: duration}, stop} = event(pool, [:ask, :stop])
    assert duration > 0 and stop == Map.put(start, :outcome, :ok)
    log = capture_log(fn -> assert {:ok, %{"code" => "exception"}} = ask.(true) end)
    assert {_, %{kind: :error, reason: %RuntimeError{}}} = event(pool, [:ask, :exception])
    assert log =~ ~s|the tool "tool" of the command "ask" failed [mine]: ** (RuntimeError) bad|
  end

  test "every event is tested here and documented" do
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = Code.fetch_docs(Telemetry)

    for [:snakepit, group, name] <- Telemetry.events() do
      assert doc =~ "[:snakepit, #{inspect(group)}, #{inspect(name)}]" or
               (group == :session and doc =~ "* `#{inspect(name)}`")
    end
  end
end
