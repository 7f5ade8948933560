defmodule Snakepit.RemotePoolTest do
  # A pool of servers that it does not start. What it shares with other pools is in `Snakepit.Test.WorkerSuite`.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, except: [start_pool!: 0, start_pool!: 1]

  alias Snakepit.{AdapterFallback, Config, Error, Pool}
  alias Snakepit.Pool.EndpointWorker
  alias Snakepit.Test.Endpoints

  @moduletag :tmp_dir
  @patience patience()

  describe "the options" do
    test "of processes are refused beside :endpoints, and those of endpoints without" do
      endpoints = ["tcp:127.0.0.1:1"]

      for option <- [size: 2, python: "python3", env: %{}, transport: :tcp, max_requests: 7] do
        assert {:error, %Error{reason: :invalid_options, message: message}} =
                 Config.pool([option, endpoints: endpoints])

        assert message =~ inspect(elem(option, 0)) and message =~ ":endpoints"
      end

      for option <- [
            connect_timeout: 1,
            reconnect_backoff: {1, 2},
            eject: [for: 1],
            keepalive: [interval: 20]
          ] do
        assert {:error, %Error{reason: :invalid_options, message: message}} =
                 Config.pool([option])

        assert message =~ inspect(elem(option, 0)) and message =~ ":endpoints"
        assert {:ok, _} = Config.pool([option, endpoints: endpoints])
      end
    end

    test "refuse what is no address, with what is expected" do
      for wrong <- [
            [],
            ["10.0.0.7:50051"],
            ["tcp:host"],
            ["tcp:host:0"],
            ["tcp:host:65536"],
            ["tcp:ho st:1"],
            ["tcp::1"],
            ["unix:"],
            ["tcp:a:1", "tcp:a:1"],
            ["tcp:a:1" | "tcp:b:1"],
            [<<255>>],
            [:a],
            "tcp:a:1"
          ] do
        assert {:error, %Error{message: message}} = Config.pool(endpoints: wrong)
        assert message =~ ":endpoints" and message =~ "tcp:host:port"
      end

      for address <- ["tcp:10.0.0.7:50051", "tcp:[::1]:50051", "tcp:a.b-c:1", "unix:/run/x.sock"],
          do: assert({:ok, %{size: 1}} = Config.pool(endpoints: [address]))

      for wrong <- [[for: 0], [failures: 0], [at_most: 2], [at_most: -0.1], [times: 3], 5] do
        assert {:error, %Error{message: message}} =
                 Config.pool(endpoints: ["tcp:a:1"], eject: wrong)

        assert message =~ ":eject"
      end

      eject = [failures: :infinity, at_most: 1]
      assert {:ok, %{eject: eject}} = Config.pool(endpoints: ["tcp:a:1"], eject: eject)
      assert Enum.sort(eject) == [at_most: 1, failures: :infinity, for: 10_000]
    end
  end

  test "an endpoint that does not exist is an error at once, and is used as soon as it does" do
    address = Endpoints.address()
    pool = Endpoints.start_remote_pool!(endpoints: [address])
    assert {:error, %Error{reason: :grpc_unavailable, message: message}} = await_ready(pool)
    assert message =~ address and message =~ "refused"

    assert {:error, %Error{reason: :grpc_unavailable, message: message} = error} =
             Snakepit.execute("ping", %{}, pool: pool)

    assert message =~ address
    refute Error.may_have_run?(error)

    assert {:ok, [%{state: :connecting, endpoint: ^address, os_pid: nil, slot: 0} = worker]} =
             Snakepit.list_workers(pool)

    assert worker.error =~ "refused"
    assert worker.id == "#{inspect(pool)}/#{String.replace_prefix(address, "tcp:", "")}"
    assert {:ok, %{healthy: false, ready: 0, size: 1}} = Snakepit.health(pool)
    Endpoints.start_at!(address)
    eventually(fn -> match?({:ok, _}, Snakepit.execute("ping", %{}, pool: pool)) end)
    assert :ok = await_ready(pool)
    assert {:ok, [%{state: :ready, error: nil, uptime_ms: up}]} = Snakepit.list_workers(pool)
    assert is_integer(up)
    assert {:ok, %{healthy: true, ready: 1}} = Snakepit.health(pool)
  end

  test "mix snakepit.doctor says whether the endpoints are ready" do
    address = Endpoints.address()
    me = self()
    check = fn -> Mix.Snakepit.Doctor.Pool.check([endpoints: [address]], &send(me, &1)) end
    assert :failed = check.()
    assert_receive %{name: "options", status: :ok}
    assert_receive %{name: "endpoints", status: :failed} = failed
    assert inspect(failed) =~ address
    Endpoints.start_at!(address)
    assert :ok = check.()
    assert_receive %{name: "endpoints", status: :ok}
  end

  describe "a pool of two" do
    setup do
      addresses = for _ <- 1..2, do: Endpoints.address()
      servers = for address <- addresses, do: Endpoints.start_at!(address)
      pool = Endpoints.start_remote_pool!(endpoints: addresses)
      assert :ok = await_ready(pool)
      %{pool: pool, servers: servers}
    end

    test "uses both, and says what they have", %{pool: pool, tmp_dir: dir} do
      until = Path.join(dir, "until")

      calls =
        for name <- ~w(a b) do
          args = %{started: Path.join(dir, name), until: until}
          call = Task.async(fn -> Snakepit.execute("hold", args, pool: pool) end)
          eventually(fn -> File.exists?(args.started) end)
          call
        end

      File.touch!(until)
      assert [{:ok, %{"pid" => one}}, {:ok, %{"pid" => other}}] = await_many(calls)
      assert one != other
      assert {:ok, %{size: 2, ready: 2, adapter: nil, restarts: 0}} = Snakepit.stats(pool)
      assert {:ok, %{size: 2, commands: %{"ping" => _}}} = Snakepit.info(pool)
      assert {:ok, [_ | _]} = Snakepit.commands(pool)
    end

    test "cannot be restarted or resized from here, and has no fallback", %{pool: pool} do
      assert {:error, %Error{reason: :invalid_options, message: message}} = Snakepit.restart(pool)
      assert message =~ ":endpoints"

      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Snakepit.resize(pool, 3)

      assert message =~ ":endpoints"
      options = [pool: pool, fallback_adapter: Snakepit.Adapters.GenericPythonV2]
      assert {:ok, _} = AdapterFallback.execute_with_fallback("ping", %{}, options)
    end

    test "loses at most the calls that ran on a server which is killed, and runs none twice",
         %{pool: pool, servers: [server | _], tmp_dir: dir} do
      path = Path.join(dir, "ran")
      stop = start_callers(pool, path)

      ran = fn -> length(lines(path)) end
      eventually(fn -> ran.() > 50 end)
      Endpoints.end!(server, :KILL)
      killed_at = ran.()
      eventually(fn -> ran.() > killed_at + 50 end)
      Endpoints.resume(server)
      eventually(fn -> match?({:ok, %{ready: 2}}, Snakepit.stats(pool)) end)
      resumed_at = ran.()
      eventually(fn -> ran.() > resumed_at + 50 end)
      results = stop.()
      {ok, lost} = Enum.split_with(results, &match?({_, {:ok, _}}, &1))

      for {_text, result} <- lost do
        assert {:error, %Error{reason: :worker_crashed, message: message}} = result
        assert message =~ "the connection to the endpoint tcp:" and message =~ "may have run"
      end

      # One that runs, and those that were sent ahead: at most one of each caller.
      assert length(lost) <= 16
      ran = lines(path)
      assert ran == Enum.uniq(ran)
      assert Enum.map(ok, &elem(&1, 0)) -- ran == []
      assert {:ok, %{restarts: 1}} = Snakepit.stats(pool)
    end
  end

  # 16 of them, which note each call before it ends. Returns a function that stops them and returns what they got.
  defp start_callers(pool, path) do
    stop = :atomics.new(1, [])

    callers =
      for caller <- 1..16 do
        Task.async(fn ->
          Stream.iterate(1, &(&1 + 1))
          |> Stream.take_while(fn _ -> :atomics.get(stop, 1) == 0 end)
          |> Enum.map(fn n ->
            text = "#{caller}-#{n}"
            {text, Snakepit.execute("note", %{path: path, text: text}, pool: pool)}
          end)
        end)
      end

    fn ->
      :atomics.put(stop, 1, 1)
      callers |> await_many() |> Enum.concat()
    end
  end

  test "sessions and calls go on when a server closes connections because they are old" do
    endpoints = Endpoints.start!(args: ["--max-connection-age", "0.3"])
    pool = Endpoints.start_remote_pool!(endpoints: endpoints)
    assert :ok = await_ready(pool)
    tally = fn -> Snakepit.execute_in_session("s", "tally", %{}, pool: pool) end

    counts =
      Stream.repeatedly(tally)
      |> Enum.reduce_while([], fn {:ok, %{"count" => count}}, counts ->
        {:ok, %{restarts: connections}} = Snakepit.stats(pool)
        {if(connections < 3, do: :cont, else: :halt), [count | counts]}
      end)

    assert Enum.reverse(counts) == Enum.to_list(1..length(counts))
  end

  test "no call is lost when servers get SIGTERM under load", %{tmp_dir: dir} do
    addresses = for _ <- 1..2, do: Endpoints.address()
    servers = for address <- addresses, do: Endpoints.start_at!(address)
    pool = Endpoints.start_remote_pool!(endpoints: addresses)
    assert :ok = await_ready(pool)
    path = Path.join(dir, "ran")
    stop = start_callers(pool, path)

    more = fn ->
      ran = length(lines(path))
      eventually(fn -> length(lines(path)) > ran + 50 end)
    end

    for server <- servers do
      more.()
      Endpoints.end!(server, :TERM)
      more.()
      Endpoints.resume(server)
      eventually(fn -> match?({:ok, %{ready: 2}}, Snakepit.stats(pool)) end)
    end

    results = stop.()
    assert Enum.reject(results, &match?({_, {:ok, _}}, &1)) == []
    assert Enum.sort(lines(path)) == results |> Enum.map(&elem(&1, 0)) |> Enum.sort()
  end

  for server <- ~w(native grpcio) do
    test "a #{server} server that is about to stop says so, and gets no further calls" do
      options = [server: unquote(server), args: ~w(--drain-delay 3600)]
      [first, second] = addresses = for _ <- 1..2, do: Endpoints.address()
      [leaving, staying] = for address <- addresses, do: Endpoints.start_at!(address, options)
      pool = Endpoints.start_remote_pool!(endpoints: addresses, health_interval: :infinity)
      eventually(fn -> states(pool) == %{first => :ready, second => :ready} end)
      signal("TERM", Endpoints.os_pid(leaving))
      eventually(fn -> states(pool) == %{first => :draining, second => :ready} end)
      # It would still take calls.
      pid = Endpoints.os_pid(staying)

      for _ <- 1..10,
          do: assert({:ok, %{"pid" => ^pid}} = Snakepit.execute("pid", %{}, pool: pool))
    end
  end

  test "calls wait for the only server while it is started again" do
    address = Endpoints.address()
    server = Endpoints.start_at!(address)
    pool = Endpoints.start_remote_pool!(endpoints: [address])
    assert :ok = await_ready(pool)
    Endpoints.end!(server, :KILL)
    eventually(fn -> match?({:ok, %{ready: 0}}, Snakepit.stats(pool)) end)
    call = Task.async(fn -> Snakepit.execute("ping", %{}, pool: pool) end)
    eventually(fn -> match?({:ok, %{queued: 1}}, Snakepit.stats(pool)) end)
    Endpoints.resume(server)
    assert {:ok, _} = await(call)
  end

  test "a lost endpoint is an error once :connect_timeout has passed" do
    address = Endpoints.address()
    server = Endpoints.start_at!(address)
    options = [endpoints: [address], connect_timeout: 200]

    # The time must suffice to connect on this machine.
    pool = Endpoints.start_remote_pool!(options)
    eventually(fn -> match?({:ok, %{ready: 1}}, Snakepit.stats(pool)) end)
    Endpoints.end!(server, :KILL)

    eventually(fn ->
      match?(
        {:error, %Error{reason: :grpc_unavailable}},
        Snakepit.execute("ping", %{}, pool: pool)
      )
    end)

    assert {:error, %Error{reason: :grpc_unavailable}} = await_ready(pool)
  end

  describe "telemetry" do
    setup do
      me = self()
      events = for name <- [:ready, :failed, :ejected, :lost], do: [:snakepit, :endpoint, name]
      for event <- events, do: :telemetry.attach({me, event}, event, &__MODULE__.tell/4, me)
      on_exit(fn -> for event <- events, do: :telemetry.detach({me, event}) end)
    end

    test "reports each change of an endpoint", %{tmp_dir: dir} do
      address = Endpoints.address()
      options = [endpoints: [address], kill_grace: 50, eject: [at_most: 1, for: 50]]
      pool = Endpoints.start_remote_pool!(options)
      assert {%{attempt: 1}, %{why: why}} = event(pool, :failed, address)
      assert why =~ "refused"
      server = Endpoints.start_at!(address)
      assert {%{duration: duration}, %{worker_id: "" <> _}} = event(pool, :ready, address)
      assert duration > 0
      args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
      run_out!("hold", args, pool: pool)
      assert {%{duration: _}, %{why: why}} = event(pool, :ejected, address)
      assert why =~ ":kill_grace"
      File.touch!(args.until)
      event(pool, :ready, address)
      Endpoints.end!(server, :KILL)
      assert {%{duration: _}, %{why: "" <> _}} = event(pool, :lost, address)
    end

    test "an endpoint that loses calls in a row is out for a while" do
      [address] = Endpoints.start!([])
      eject = [failures: 2, for: 50, at_most: 1]
      pool = Endpoints.start_remote_pool!(endpoints: [address], eject: eject)
      # An answer ends the row.
      for command <- ["die", "ping", "die"], do: Snakepit.execute(command, %{}, pool: pool)
      assert {:error, %Error{}} = Snakepit.execute("die", %{}, pool: pool)
      {_, %{why: why}} = event(pool, :ejected, address)
      assert why =~ "2 calls in a row" and why =~ address
      assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
      refute_received {[:snakepit, :endpoint, :ejected], _, %{pool: ^pool}}
    end

    test "but not if too many would be out" do
      endpoints = Endpoints.start!(size: 2)
      eject = [failures: 1, for: 1_000_000]
      pool = Endpoints.start_remote_pool!(endpoints: endpoints, eject: eject)
      assert :ok = await_ready(pool)
      assert {:error, %Error{}} = Snakepit.execute("die", %{}, pool: pool)
      states = fn -> for {:ok, ws} <- [Snakepit.list_workers(pool)], w <- ws, do: w.state end
      eventually(fn -> Enum.sort(states.()) == [:ejected, :ready] end)
      assert {:error, %Error{}} = Snakepit.execute("die", %{}, pool: pool)
      assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
      assert Enum.sort(states.()) == [:ejected, :ready]
    end

    defp event(pool, name, address) do
      event = [:snakepit, :endpoint, name]

      assert_receive {^event, measurements, %{pool: ^pool, endpoint: ^address} = metadata},
                     @patience

      {measurements, metadata}
    end
  end

  def tell(event, measurements, metadata, pid), do: send(pid, {event, measurements, metadata})

  describe "an endpoint whose cancelled call goes on" do
    test "takes no calls for a while", %{tmp_dir: dir} do
      [address] = Endpoints.start!(kill_grace: @patience, max_concurrency: 2)
      options = [endpoints: [address], kill_grace: 50, max_concurrency: 2]
      eject = [at_most: 1, for: 500]
      pool = Endpoints.start_remote_pool!([eject: eject] ++ options)
      assert :ok = await_ready(pool)
      args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
      run_out!("hold", args, pool: pool)

      eventually(fn ->
        with {:ok, [%{state: :ejected, error: why}]} <- Snakepit.list_workers(pool),
             do: why =~ ":kill_grace"
      end)

      eventually(fn -> match?({:ok, %{ready: 1}}, Snakepit.stats(pool)) end)
      assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
      File.touch!(args.until)
    end

    test "keeps its other calls, also when its server is about to end", %{tmp_dir: dir} do
      address = Endpoints.address()
      limits = [kill_grace: @patience, shutdown_timeout: @patience, max_concurrency: 2]
      server = Endpoints.start_at!(address, limits)
      {pool, call, until} = ejected!(dir, address, eject: [for: 1_000_000, at_most: 1])
      signal("TERM", Endpoints.os_pid(server))
      # It has closed its connections for further calls when nothing listens any more.
      eventually(fn -> refused?(address) end)
      assert {:ok, [%{state: :ejected}]} = Snakepit.list_workers(pool)
      File.touch!(until)
      assert {:ok, _} = await(call)
    end

    test "keeps them when it may return and its server takes no calls", %{tmp_dir: dir} do
      address = Endpoints.address()
      limits = [kill_grace: @patience, shutdown_timeout: @patience, max_concurrency: 2]
      server = Endpoints.start_at!(address, limits ++ [args: ~w(--drain-delay 3600)])
      {pool, call, until} = ejected!(dir, address, eject: [for: 1_000_000, at_most: 1])
      signal("TERM", Endpoints.os_pid(server))
      for worker <- worker_pids(pool), do: send(worker, :readmit)
      eventually(fn -> match?(%{^address => :draining}, states(pool)) end)
      File.touch!(until)
      assert {:ok, _} = await(call)
    end

    test "has them finish when the pool stops", %{tmp_dir: dir} do
      address = Endpoints.address()
      Endpoints.start_at!(address, kill_grace: @patience, max_concurrency: 2)
      options = [eject: [for: 1_000_000, at_most: 1], shutdown_timeout: @patience]
      {pool, call, until} = ejected!(dir, address, options)
      [worker] = worker_pids(pool)

      stops? = fn ->
        case Process.info(worker, :current_stacktrace) do
          {:current_stacktrace, trace} ->
            Enum.any?(trace, &match?({EndpointWorker, :terminate, _, _}, &1))

          nil ->
            true
        end
      end

      finishing =
        Task.async(fn ->
          eventually(stops?)
          File.touch!(until)
          eventually(fn -> not Process.alive?(call.pid) end)
          # The server may have calls that nobody knows of.
          Process.exit(worker, :kill)
        end)

      :ok = stop_supervised({Pool, pool})
      await(finishing)
      assert {:ok, _} = await(call)
    end

    test "returns at once if too many would be out", %{tmp_dir: dir} do
      [address] = Endpoints.start!(kill_grace: @patience, max_concurrency: 2)
      options = [endpoints: [address], kill_grace: 50, max_concurrency: 2]
      # By default at most half of the endpoints.
      pool = Endpoints.start_remote_pool!([eject: [for: 1_000_000]] ++ options)
      assert :ok = await_ready(pool)
      args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
      run_out!("hold", args, pool: pool)
      eventually(fn -> match?({:ok, %{restarts: n}} when n > 0, Snakepit.stats(pool)) end)
      assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
      File.touch!(args.until)
    end
  end

  describe "errors and the log" do
    test "speak of the endpoint, not of a worker that is replaced", %{tmp_dir: dir} do
      address = Endpoints.address()
      server = Endpoints.start_at!(address, max_concurrency: 2, kill_grace: @patience)
      times = [queue_timeout: 50, pipeline_budget: 0, health_interval: 50]
      pool = Endpoints.start_remote_pool!([endpoints: [address], max_concurrency: 2] ++ times)
      assert :ok = await_ready(pool)
      options = [pool: pool, timeout: 2 * @patience]
      assert {:ok, _} = Snakepit.execute_in_session("s", "tally", %{}, options)
      until = Path.join(dir, "until")
      args = for name <- ~w(a b), do: %{started: Path.join(dir, name), until: until}
      [of_unary, of_stream] = args
      unary = Task.async(fn -> Snakepit.execute("hold", of_unary, options) end)

      stream =
        Task.async(fn ->
          Snakepit.execute_stream("hold_stream", of_stream, fn _ -> nil end, options)
        end)

      for %{started: started} <- args, do: eventually(fn -> File.exists?(started) end)
      assert {:error, %Error{} = late} = Snakepit.execute("ping", %{}, options)
      assert late.reason == :queue_timeout and late.message =~ "no endpoint was free"

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          suspend!(Endpoints.os_pid(server))
          eventually(fn -> match?({:ok, %{errors: 0}}, Snakepit.stats(pool)) end)
          Endpoints.end!(server, :KILL)

          for task <- [unary, stream] do
            assert {:error, %Error{reason: :worker_crashed, message: message}} = await(task)
            assert message =~ "the connection to the endpoint #{address} was lost"
            assert message =~ "the call may have run"
            refute message =~ "replaced"
          end
        end)

      lines = log |> String.split("\n") |> Enum.filter(&(&1 =~ inspect(pool)))
      assert Enum.any?(lines, &(&1 =~ "endpoint #{inspect(pool)}/"))
      refute Enum.any?(lines, &(&1 =~ "worker"))
      Endpoints.resume(server)
      eventually(fn -> match?({:ok, %{ready: 1}}, Snakepit.stats(pool)) end)

      assert {:error, %Error{reason: :session_lost, message: message}} =
               Snakepit.execute_in_session("s", "tally", %{}, options)

      assert message =~ "the endpoint of the session"
    end
  end

  describe "affinity: :server" do
    test "leaves the choice of a session's server to the balancer", %{tmp_dir: dir} do
      endpoints = Endpoints.start!(size: 2, max_concurrency: 2)
      pool = Endpoints.start_remote_pool!(endpoints: endpoints, affinity: :server)
      assert :ok = await_ready(pool)

      tally = fn options ->
        Snakepit.execute("tally", %{}, [pool: pool, session_id: "s"] ++ options)
      end

      assert {:ok, %{"count" => 1, "pid" => one}} = tally.([])
      args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
      held = Task.async(fn -> Snakepit.execute("hold", args, pool: pool) end)
      eventually(fn -> File.exists?(args.started) end)
      # The other one is free, and the session does not wait.
      assert {:ok, %{"count" => 1, "pid" => other}} = tally.([])
      assert one != other
      File.touch!(args.until)
      assert {:ok, %{"pid" => ^one}} = await(held)
      assert {:ok, %{sessions: 0}} = Snakepit.stats(pool)
      options = [pool: pool, session_id: "s"]
      assert {:ok, %{"metadata" => metadata}} = Snakepit.execute("request", %{}, options)
      assert metadata["session_id"] == "s"
      # A call may choose otherwise.
      assert {:ok, %{"count" => 1}} = tally.(affinity: :strict)
      assert {:ok, %{sessions: 1}} = Snakepit.stats(pool)
    end

    test "never returns :session_lost itself, and ends sessions on the server" do
      address = Endpoints.address()
      server = Endpoints.start_at!(address)
      pool = Endpoints.start_remote_pool!(endpoints: [address])
      options = [pool: pool, affinity: :server, session_id: "s"]
      tally = fn pool -> Snakepit.execute("tally", %{}, [{:pool, pool} | options]) end
      assert {:ok, %{"count" => 1}} = tally.(pool)
      # The session is the server's: another pool has the same.
      other = Endpoints.start_remote_pool!(endpoints: [address], affinity: :server)
      assert {:ok, %{"count" => 2}} = tally.(other)
      assert :ok = Snakepit.end_session("s", pool: other)
      eventually(fn -> match?({:ok, %{"count" => 1}}, tally.(other)) end)
      assert {:ok, %{"count" => 2}} = tally.(pool)
      Endpoints.end!(server, :KILL)
      Endpoints.resume(server)
      eventually(fn -> match?({:ok, %{"count" => 1}}, tally.(pool)) end)
    end

    test "is refused where nothing could choose, and for ids that metadata cannot have" do
      [address] = Endpoints.start!([])
      pool = Endpoints.start_remote_pool!(endpoints: [address], affinity: :server)

      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Snakepit.execute_in_session("ü", "tally", %{}, pool: pool)

      assert message =~ "printable ASCII"
      assert {:error, %Error{reason: :invalid_options}} = Snakepit.end_session("ü", pool: pool)
      assert {:error, %Error{reason: :invalid_options}} = Config.pool(affinity: :server)
      assert {:error, %Error{}} = Config.pool(endpoints: [address], affinity: :any)
    end
  end

  test "a pool that stops ends the calls that go on, with the cause", %{tmp_dir: dir} do
    [address] = Endpoints.start!([])
    pool = Endpoints.start_remote_pool!(endpoints: [address], shutdown_timeout: 50)
    assert :ok = await_ready(pool)
    args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}

    call =
      Task.async(fn -> Snakepit.execute("hold", args, pool: pool, timeout: 2 * @patience) end)

    eventually(fn -> File.exists?(args.started) end)
    :ok = stop_supervised({Pool, pool})
    assert {:error, %Error{reason: :worker_crashed, message: message}} = await(call)
    assert message =~ ":shutdown_timeout"
    File.touch!(args.until)
  end

  test "a pool that stops without a connection ends the calls that go on", %{tmp_dir: dir} do
    address = Endpoints.address()
    server = Endpoints.start_at!(address, shutdown_timeout: @patience)
    pool = Endpoints.start_remote_pool!(endpoints: [address], shutdown_timeout: 50)
    {call, until} = held(pool, dir)
    signal("TERM", Endpoints.os_pid(server))
    eventually(fn -> states(pool) == %{address => :connecting} end)
    :ok = stop_supervised({Pool, pool})
    assert {:error, %Error{reason: :worker_crashed, message: message}} = await(call)
    assert message =~ ":shutdown_timeout"
    File.touch!(until)
  end

  test "a pool that stops ends the calls of earlier connections", %{tmp_dir: dir} do
    [address] = Endpoints.start!(args: ["--max-connection-age", "0.3"])
    pool = Endpoints.start_remote_pool!(endpoints: [address], shutdown_timeout: 50)
    {call, until} = held(pool, dir)
    eventually(fn -> match?({:ok, %{restarts: n}} when n > 0, Snakepit.stats(pool)) end)
    :ok = stop_supervised({Pool, pool})
    assert {:error, %Error{reason: :worker_crashed, message: message}} = await(call)
    assert message =~ ":shutdown_timeout"
    File.touch!(until)
  end

  # A call that runs until the file is there.
  defp held(pool, dir, name \\ "held") do
    args = %{started: Path.join(dir, name), until: Path.join(dir, "until")}
    options = [pool: pool, timeout: 2 * @patience]
    call = Task.async(fn -> Snakepit.execute("hold", args, options) end)
    eventually(fn -> File.exists?(args.started) end)
    {call, args.until}
  end

  # A pool whose endpoint is out because of one of its two calls. The other one goes on until the file is there.
  defp ejected!(dir, address, options) do
    limits = [endpoints: [address], kill_grace: 50, max_concurrency: 2]
    pool = Endpoints.start_remote_pool!(limits ++ options)
    assert :ok = await_ready(pool)
    {call, until} = held(pool, dir)
    run_out!("hold", %{started: Path.join(dir, "late"), until: until}, pool: pool)
    eventually(fn -> match?({:ok, [%{state: :ejected}]}, Snakepit.list_workers(pool)) end)
    {pool, call, until}
  end

  defp refused?("tcp:" <> address) do
    [host, port] = String.split(address, ":")

    with {:ok, socket} <- :gen_tcp.connect(to_charlist(host), String.to_integer(port), []) do
      :gen_tcp.close(socket)
      false
    else
      {:error, _refused} -> true
    end
  end

  defp states(pool) do
    {:ok, workers} = Snakepit.list_workers(pool)
    Map.new(workers, &{&1.endpoint, &1.state})
  end
end
