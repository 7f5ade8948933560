defmodule Snakepit.ConnectionsTest do
  # A server closes connections while it keeps running, as it may do with old connections.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Error, GRPC.Client, GRPCWorker}
  alias Snakepit.Pool.Membership
  alias Snakepit.Test.{Log, Proxy}

  @patience 60_000
  @age_ms 500
  @connections 4

  defmodule Adapter do
    use Snakepit.Test.ServerAdapter, script: "plain_server.py"
  end

  # A call that meets the very end of an idle connection may be taken by grpcio, which then ends it: it says so, with
  # its id as the last one, and the call is lost.
  test "a pool whose server has ended an idle connection connects again, and loses no call" do
    environment = environment("grpc.max_connection_idle_ms")
    options = [transport: :tcp, env: environment, health_interval: :infinity]
    pool = start_server_pool!(Adapter, options)
    [worker] = worker_pids(pool)

    report = fn
      test, {:in, {_ref, {:closed, _lasted_ms}}}, _name ->
        send(test, :closed)
        test

      test, _event, _name ->
        test
    end

    :ok = :sys.install(worker, {report, self()})
    options = [pool: pool, timeout: @patience, queue_timeout: @patience]

    peers =
      for _ <- 1..4 do
        assert {:ok, %{"peer" => peer}} = Snakepit.execute("peer", %{}, options)
        assert_receive :closed, @patience
        peer
      end

    assert length(Enum.uniq(peers)) > 1
    assert {:ok, %{restarts: 0}} = Snakepit.stats(pool)
  end

  test "the calls and streams of a pool continue on the next connections, and its worker stays" do
    pool = start_server_pool!(Adapter, transport: :tcp, max_concurrency: 8, env: environment())
    options = [pool: pool, timeout: @patience, queue_timeout: @patience]
    peer = fn -> Snakepit.execute("peer", %{}, options) end
    {:ok, before} = Snakepit.list_workers(pool)

    load = [
      fn -> Snakepit.execute("echo", %{a: 1}, options) end,
      fn -> Snakepit.execute_in_session("s", "echo", %{a: 1}, options) end,
      fn -> Snakepit.execute_stream("count", %{count: 100}, & &1, options) end
    ]

    assert over_connections(peer, load) == []
    {:ok, later} = Snakepit.list_workers(pool)
    assert Enum.map(later, & &1.os_pid) == Enum.map(before, & &1.os_pid)
    assert {:ok, %{restarts: 0}} = Snakepit.stats(pool)
  end

  test "a worker that is killed while it connects again leaves its reason" do
    environment = environment("grpc.max_connection_idle_ms")
    options = [transport: :tcp, env: environment, health_interval: :infinity]
    pool = start_server_pool!(Adapter, options)
    [worker] = worker_pids(pool)
    # Once it is connected it is killed just before it gets the answer of its health check.
    kill = fn
      :waiting, {:in, {ref, {:ok, _channel}}}, _name when is_reference(ref) ->
        send(self(), :connected)
        :connected

      :connected, {:in, :connected}, _name ->
        receive do
          {_ref, {:ok, %{"healthy" => true}}} = answer ->
            send(self(), {:snakepit_kill, "killed by the test"})
            send(self(), answer)
        end

        :killed

      state, _event, _name ->
        state
    end

    :ok = :sys.install(worker, {kill, :waiting})
    monitor = Process.monitor(worker)
    assert_receive {:DOWN, ^monitor, :process, ^worker, reason}, @patience
    assert reason == {:shutdown, {:call_continued, "killed by the test"}}
  end

  test "a running stream continues on its connection" do
    pool = start_server_pool!(Adapter, transport: :tcp, max_concurrency: 8, env: environment())
    options = [pool: pool, timeout: @patience, queue_timeout: @patience]
    {:ok, call} = Snakepit.start_stream("endless", %{}, [demand: 1] ++ options)
    peer = fn -> Snakepit.execute("peer", %{}, options) end
    assert over_connections(peer, []) == []
    Snakepit.ask(call, 10)
    assert [0 | _] = indexes(call, 11)
    assert :ok = Snakepit.cancel(call)
    # Over its current connection the worker is asked whether the cancelled stream has ended.
    eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end, @patience)
    assert {:ok, %{restarts: 0}} = Snakepit.stats(pool)
  end

  @tag :tmp_dir
  test "a worker is not killed for a cancelled call while it connects again", %{tmp_dir: dir} do
    grace = [kill_grace: 3_000]

    options = [
      transport: :tcp,
      max_concurrency: 8,
      env: environment(),
      health_interval: :infinity
    ]

    pool = start_server_pool!(Adapter, grace ++ options)
    [worker] = worker_pids(pool)
    options = [pool: pool, timeout: :infinity]
    {:ok, call} = Snakepit.start_stream("endless", %{}, [demand: 1] ++ options)
    assert [0] = indexes(call, 1)

    # Not while it connects again already.
    eventually(fn ->
      :ok = :sys.suspend(worker)
      %{awaited: awaited} = :sys.get_state(worker)
      if awaited, do: :ok = :sys.resume(worker)
      awaited == nil
    end)

    # While the stream goes on, only a call finds that its connection accepts no more.
    load = Task.async(fn -> repeat(fn -> Snakepit.execute("peer", %{}, options) end) end)

    eventually(fn ->
      {:messages, messages} = Process.info(worker, :messages)
      Enum.any?(messages, &match?({_ref, {:closed, _lasted_ms}}, &1))
    end)

    Task.shutdown(load, :brutal_kill)
    assert :ok = Snakepit.cancel(call)
    # A worker with as much time is killed later.
    await_killed!(grace, Path.join(dir, "started"))
    :ok = :sys.resume(worker)
    eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end, @patience)
    assert_serves(%{pool: pool, worker: worker})
  end

  test "a worker whose sessions time out while it connects again keeps its calls" do
    options = [transport: :tcp, max_concurrency: 8, env: environment()]
    pool = start_server_pool!(Adapter, [health_interval: :infinity] ++ options)
    options = [pool: pool, timeout: @patience, queue_timeout: @patience]
    {:ok, call} = Snakepit.start_stream("count", %{count: 100}, [demand: 1] ++ options)
    assert [0] = indexes(call, 1)
    [worker] = worker_pids(pool)
    monitor = Process.monitor(worker)

    report = fn
      test, {:in, {_ref, {:closed, _lasted_ms}}}, _name ->
        send(self(), :sessions_timeout)
        test

      test, {:in, {_ref, {:ok, %{"healthy" => true}}}}, _name ->
        send(test, :connected)
        test

      test, _event, _name ->
        test
    end

    :ok = :sys.install(worker, {report, self()})
    load = Task.async(fn -> repeat(fn -> Snakepit.execute("peer", %{}, options) end) end)
    assert_receive :connected, @patience
    Task.shutdown(load, :brutal_kill)
    Snakepit.ask(call, 100)
    assert Enum.to_list(1..99) == indexes(call, 99)
    assert_receive {:DOWN, ^monitor, :process, ^worker, reason}, @patience
    # Once its last call had ended.
    assert reason == {:shutdown, {:exited, "it was killed by SIGTERM"}}
  end

  @tag :tmp_dir
  test "a worker stays though its next connections end before they serve", %{tmp_dir: dir} do
    %{proxy: proxy} = proxied = start_proxied!(dir)
    # Before, within and after the preface, and in the question for its health.
    :ok = Proxy.break(proxy, [0, 10, 100, 200])
    eventually(fn -> Proxy.limits(proxy) == [] end)
    assert_serves(proxied)
  end

  @tag :tmp_dir
  test "an attempt to connect again leaves no other one behind", %{tmp_dir: dir} do
    %{worker: worker, proxy: proxy, sick: sick} = proxied = start_proxied!(dir)
    end_after_failures(proxied, 1, fn -> File.rm!(sick) end)
    File.touch!(sick)
    :ok = Proxy.break(proxy, [])
    for event <- [:failed, :waited, :healthy], do: assert_receive(^event, @patience)
    assert %{awaited: nil, membership: %{key: key}} = :sys.get_state(worker)
    assert key != nil
    assert_serves(proxied)
  end

  @tag :tmp_dir
  test "connections that do not serve give a worker no more time", %{tmp_dir: dir} do
    %{worker: worker, proxy: proxy, sick: sick} = proxied = start_proxied!(dir)
    end_after_failures(proxied, 3)
    File.touch!(sick)
    :ok = Proxy.break(proxy, [])

    limits =
      for _ <- 1..3 do
        assert_receive :failed, @patience
        :sys.get_state(worker).reconnect_until
      end

    assert [_limit] = Enum.uniq(limits)
    File.rm!(sick)
    assert_serves(proxied)
  end

  @tag :tmp_dir
  test "a worker that connects again is not asked for its health", %{tmp_dir: dir} do
    # The checks are those of the test.
    proxied = start_proxied!(dir, health_interval: 3_600_000, health_misses: 3)
    %{pool: pool, worker: worker, proxy: proxy, sick: sick} = proxied
    Log.follow(pool)
    File.touch!(sick)

    for misses <- 1..2 do
      send(worker, :check_health)
      Log.await(pool, "missed a health check (#{misses}): it is sick")
    end

    :ok = Proxy.break(proxy, List.duplicate(0, 1_000))
    eventually(fn -> length(Proxy.limits(proxy)) < 1_000 end)
    for _ <- 1..10, do: send(worker, :check_health)
    # They are handled.
    :sys.get_state(worker)
    File.rm!(sick)
    :ok = Proxy.break(proxy, [])
    assert_serves(proxied)
    File.touch!(sick)
    send(worker, :check_health)
    Log.await(pool, "missed a health check (1): it is sick")
    assert worker_pids(pool) == [worker]
  end

  test "a worker that leaves says nothing of an attempt to connect that has failed" do
    ref = make_ref()
    id = "worker#{System.unique_integer()}"
    membership = %Membership{id: id, key: 1, leaving: :draining}
    past = System.monotonic_time(:millisecond) - 1
    state = %GRPCWorker{membership: membership, awaited: {:connect, ref}, reconnect_until: past}
    failure = {:grpc_unavailable, "nobody listens", %{}}

    log =
      capture_log(fn ->
        assert {:noreply, %{awaited: nil, membership: ^membership}} =
                 GRPCWorker.handle_info({ref, {:error, failure}}, state)
      end)

    refute log =~ id
  end

  test "a stream on an earlier connection learns why the worker has exited" do
    pool = start_server_pool!(Adapter, transport: :tcp, max_concurrency: 8, env: environment())
    options = [pool: pool, timeout: @patience, queue_timeout: @patience]
    {:ok, %{ref: ref} = call} = Snakepit.start_stream("endless", %{}, [demand: 1] ++ options)
    assert over_connections(fn -> Snakepit.execute("peer", %{}, options) end, []) == []
    assert [0] = indexes(call, 1)
    {:ok, [%{os_pid: os_pid}]} = Snakepit.list_workers(pool)
    signal("KILL", os_pid)
    Snakepit.ask(call, 1_000_000)
    assert_receive {:snakepit, ^ref, {:error, %Error{reason: :worker_crashed} = error}}, @patience
    assert error.message =~ "it was killed by SIGKILL"
  end

  test "a user's own channel connects again" do
    {_port, address} = start_server!("tcp:127.0.0.1:0", environment())
    {:ok, channel} = Client.connect(address)
    peer = fn -> Client.execute(channel, "peer") end

    load = [
      fn -> Client.execute(channel, "echo", %{a: 1}) end,
      fn -> Client.execute_stream(channel, "count", %{count: 100}, & &1) end,
      fn -> Client.health(channel) end
    ]

    assert over_connections(peer, load) == []
  end

  @tag :tmp_dir
  test "calls on a user's own channel share an attempt to connect that takes longer than one of them",
       %{
         tmp_dir: dir
       } do
    file = Path.join(dir, "port")
    {proxy, address} = Proxy.start!(file)
    start_server!("tcp:127.0.0.1:0", %{"SERVER_PORT_FILE" => file})
    {:ok, channel} = Client.connect(address, timeout: @patience)
    assert {:ok, %{"a" => 1}} = Client.execute(channel, "echo", %{a: 1})
    :ok = Proxy.hold(proxy)

    eventually(fn ->
      assert {:error, _} = Client.execute(channel, "echo", %{a: 1}, timeout: 10)
      Proxy.held(proxy) > 0
    end)

    for _ <- 1..3, do: assert({:error, _} = Client.execute(channel, "echo", %{a: 1}, timeout: 10))
    # One for unary calls, if the server has that, and one for all else.
    assert Proxy.release(proxy) <= 2
    assert {:ok, %{"a" => 1}} = Client.execute(channel, "echo", %{a: 1}, timeout: @patience)
  end

  test "a user's own channel finds a restarted server" do
    socket = Path.join(System.tmp_dir!(), "snakepit-#{System.unique_integer([:positive])}.sock")
    on_exit(fn -> File.rm(socket) end)
    {port, address} = start_server!("unix:" <> socket, %{})
    {:ok, channel} = Client.connect(address)
    assert {:ok, %{"a" => 1}} = Client.execute(channel, "echo", %{a: 1})
    Port.close(port)

    eventually(
      fn ->
        match?({:error, %Error{reason: :grpc_unavailable}}, Client.execute(channel, "echo"))
      end,
      @patience
    )

    File.rm(socket)
    start_server!("unix:" <> socket, %{})
    assert {:ok, %{"a" => 1}} = Client.execute(channel, "echo", %{a: 1})
    assert {:ok, %{"healthy" => true}} = Client.health(channel)
  end

  defp environment(limit \\ "grpc.max_connection_age_ms") do
    options = ~s([["#{limit}", #{@age_ms}]])
    %{"PYTHONPATH" => Path.expand("python"), "SERVER_OPTIONS" => options}
  end

  # A pool of one worker whose connections a proxy ends, and which is sick while a file exists.
  defp start_proxied!(dir, options \\ [health_interval: :infinity]) do
    [file, sick] = for name <- ["port", "sick"], do: Path.join(dir, name)
    {proxy, address} = Proxy.start!(file)

    env = %{
      "PYTHONPATH" => Path.expand("python"),
      "SERVER_ANNOUNCES" => address,
      "SERVER_PORT_FILE" => file,
      "SERVER_SICK_FILE" => sick
    }

    pool = start_server_pool!(Adapter, [transport: :tcp, env: env] ++ options)
    [worker] = worker_pids(pool)
    %{pool: pool, worker: worker, proxy: proxy, sick: sick}
  end

  defp await_killed!(options, started) do
    pool = start_pool!(options)
    [worker] = worker_pids(pool)
    monitor = Process.monitor(worker)
    args = %{seconds: 600, started: started}
    call = Task.async(fn -> Snakepit.execute("sleep", args, pool: pool) end)
    eventually(fn -> File.exists?(started) end)
    Task.shutdown(call, :brutal_kill)
    assert_receive {:DOWN, ^monitor, :process, ^worker, {:shutdown, reason}}, @patience
    assert {:call_continued, _why} = reason
  end

  defp assert_serves(%{pool: pool, worker: worker}) do
    options = [pool: pool, timeout: @patience, queue_timeout: @patience]
    assert {:ok, %{"a" => 1}} = Snakepit.execute("echo", %{a: 1}, options)
    assert worker_pids(pool) == [worker]
    assert {:ok, %{restarts: 0}} = Snakepit.stats(pool)
  end

  # So many times a connection on which the question for the health has failed ends right after that, as one that has
  # lasted. The test gets `:failed` each time, and after the last one also `:waited` and `:healthy`.
  defp end_after_failures(%{worker: worker, proxy: proxy}, times, and_then \\ fn -> :ok end) do
    report = fn
      %{left: left} = state, {:in, {_ref, {:error, _failure}}}, _name when left > 0 ->
        and_then.()
        :ok = Proxy.break(proxy, [])

        receive do
          {ref, {:closed, lasted}} -> send(self(), {ref, {:closed, max(lasted, 100)}})
        end

        send(state.test, :failed)
        %{state | left: left - 1}

      %{left: 0} = state, {:in, {:timeout, _timer, :reconnect}}, _name ->
        send(state.test, :waited)
        state

      %{left: 0} = state, {:in, {_ref, {:ok, %{"healthy" => true}}}}, _name ->
        send(state.test, :healthy)
        state

      state, _event, _name ->
        state
    end

    :ok = :sys.install(worker, {report, %{test: self(), left: times}})
  end

  # Repeats the load until calls have used this many connections. Returns the failures.
  defp over_connections(peer, load) do
    tasks = for call <- load, do: Task.async(fn -> repeat(call) end)
    eventually(fn -> MapSet.size(seen(peer)) >= @connections end, @patience)
    for task <- tasks, do: send(task.pid, :stop)
    Task.await_many(tasks, @patience) |> List.flatten()
  end

  defp seen(peer) do
    {:ok, %{"peer" => peer}} = peer.()
    seen = MapSet.put(Process.get(:seen, MapSet.new()), peer)
    Process.put(:seen, seen)
    seen
  end

  defp repeat(call) do
    receive do
      :stop -> []
    after
      0 ->
        case call.() do
          {:error, error} -> [error]
          _ -> repeat(call)
        end
    end
  end

  defp indexes(_call, 0), do: []

  defp indexes(%{ref: ref} = call, left) do
    assert_receive {:snakepit, ^ref, {:chunks, chunks}}, @patience
    Enum.map(chunks, & &1["index"]) ++ indexes(call, left - length(chunks))
  end

  defp start_server!(listen, environment) do
    environment =
      Map.merge(environment, %{
        "PYTHONPATH" => Path.expand("python"),
        "SNAKEPIT_LISTEN" => listen,
        "SNAKEPIT_READY_TOKEN" => "ready"
      })

    port =
      Port.open({:spawn_executable, Adapter.executable_path()}, [
        :binary,
        line: 1000,
        args: [Adapter.script_path()],
        env: for({name, value} <- environment, do: {to_charlist(name), to_charlist(value)})
      ])

    assert_receive {^port, {:data, {:eol, "ready " <> address}}}, @patience
    {port, address}
  end
end
