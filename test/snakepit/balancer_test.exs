defmodule Snakepit.BalancerTest do
  # Unary calls where the RPC that carries them is not the connection: behind balancers, and on servers that open it
  # late or end it.
  use ExUnit.Case, async: true

  import Snakepit.Test.{Pools, Servers}

  alias Snakepit.Error
  alias Snakepit.GRPC.Client
  alias Snakepit.Test.{Endpoints, HAProxy}

  defmodule LateCalls do
    use Snakepit.Test.ServerAdapter, script: "late_calls_server.py"
  end

  describe "behind a balancer" do
    for {name, starts, skip} <- [
          {"of grpcio", :balancer!, nil},
          {"HAProxy", :haproxy!,
           System.find_executable("haproxy") == nil && "haproxy is not installed"}
        ] do
      @tag :tmp_dir
      @tag if(skip, do: [skip: skip], else: [])
      test "#{name}, unary calls go on when the server that had them has died", %{tmp_dir: dir} do
        address = unquote(starts)(servers!(), dir)
        channel = eventually(fn -> connected(address) end)
        gone = eventually(fn -> only_pid(channel) end)
        # It does not return: its server dies.
        args = %{seconds: 600, started: Path.join(dir, "started")}
        running = Task.async(fn -> Client.execute(channel, "sleep", args) end)
        eventually(fn -> File.exists?(args.started) end)
        signal("KILL", gone)
        assert {:error, %Error{reason: :worker_crashed} = error} = await(running)
        assert Error.may_have_run?(error)
        stays = eventually(fn -> only_pid(channel) end)
        assert stays != gone
        assert for(_ <- 1..20, do: pid(channel)) == List.duplicate(stays, 20)
      end
    end

    @tag :tmp_dir
    @tag if(System.find_executable("haproxy"), do: [], else: [skip: "haproxy is not installed"])
    test "HAProxy and calls: false, a call whose server dies is not made again", %{tmp_dir: dir} do
      servers = servers!()
      address = haproxy!(servers, dir)
      channel = eventually(fn -> connected(address, calls: false) end)
      # HAProxy refuses only what it had sent on a connection that it had used before.
      eventually(fn -> match?({:ok, _}, Client.execute(channel, "pid")) end)
      for _ <- 1..8, do: pid(channel)
      args = %{seconds: 600, started: Path.join(dir, "started")}
      running = Task.async(fn -> Client.execute(channel, "sleep", args) end)
      eventually(fn -> File.exists?(args.started) end)
      for server <- servers, do: signal("KILL", server.os_pid)
      assert {:error, %Error{reason: :worker_crashed} = error} = await(running)
      assert Error.may_have_run?(error)
    end

    @tag :tmp_dir
    @tag if(System.find_executable("haproxy"), do: [], else: [skip: "haproxy is not installed"])
    test "HAProxy, sessions stay on the servers that it finds by their ids", %{tmp_dir: dir} do
      address = haproxy!(servers!(), dir, "hdr(session_id)")
      channel = eventually(fn -> connected(address, calls: false) end)
      options = &[session_id: "session #{&1}", affinity: :server]
      tally = fn session -> Client.execute(channel, "tally", %{}, options.(session)) end
      eventually(fn -> match?({:ok, _}, Client.execute(channel, "pid")) end)
      pool = Endpoints.start_remote_pool!(endpoints: [address], calls: false)
      assert :ok = await_ready(pool)

      tally_of_pool = fn session ->
        Snakepit.execute("tally", %{}, [pool: pool] ++ options.(session))
      end

      pids =
        for session <- 1..8 do
          assert {:ok, %{"count" => 1, "pid" => pid}} = tally.(session)
          assert {:ok, %{"count" => 2, "pid" => ^pid}} = tally.(session)
          assert {:ok, %{"count" => 3, "pid" => ^pid}} = tally_of_pool.(session)
          pid
        end

      assert length(Enum.uniq(pids)) == 2
    end

    @tag :tmp_dir
    @tag if(HAProxy.executable(), do: [], else: [skip: "haproxy is not installed"])
    test "HAProxy, as in the example, gives no call to a server that stops", %{tmp_dir: dir} do
      # The server itself goes on until its second signal.
      options = [server: "grpcio", size: 2, args: ["--drain-delay", "3600"]]
      [stops, stays] = servers = Endpoints.start!(options)
      address = Endpoints.address()
      HAProxy.start!(HAProxy.executable(), dir, address, servers)
      channel = eventually(fn -> connected(address, calls: false) end)
      eventually(fn -> match?({:ok, _}, Client.execute(channel, "pid")) end)
      pids = for _ <- 1..4, do: pid(channel)
      assert length(Enum.uniq(pids)) == 2
      {:ok, direct} = Client.connect(stops, calls: false)
      stopping = pid(direct)
      signal("TERM", stopping)
      eventually(fn -> only_pid(channel) not in [nil, stopping] end)
      assert pid(direct) == stopping
      {:ok, other} = Client.connect(stays, calls: false)
      assert for(_ <- 1..6, do: pid(channel)) == List.duplicate(pid(other), 6)
    end

    @tag :tmp_dir
    test "calls: false has each call go to the next server", %{tmp_dir: dir} do
      servers = servers!()
      {:ok, channel} = Client.connect(balancer!(servers, dir), calls: false)
      pids = for _ <- 1..4, do: pid(channel)
      assert Enum.uniq(pids) |> Enum.sort() == servers |> Enum.map(& &1.os_pid) |> Enum.sort()
    end
  end

  describe "a server that sends the headers of Calls late" do
    test "gets unary RPCs until they come, and again when the RPC has ended" do
      pool = start_server_pool!(LateCalls)
      rpc = fn command -> Snakepit.execute(command, %{}, pool: pool) end
      assert rpc.("any") == {:ok, %{"rpc" => "Execute"}}
      assert rpc.("open") == {:ok, %{"rpc" => "Execute"}}
      eventually(fn -> rpc.("any") == {:ok, %{"rpc" => "Calls"}} end)

      assert {:error, %Error{reason: :worker_crashed, message: message} = error} = rpc.("end")
      assert message =~ "ended it without a reply"
      assert Error.may_have_run?(error)
      assert rpc.("any") == {:ok, %{"rpc" => "Execute"}}

      eventually(fn ->
        rpc.("open")
        rpc.("any") == {:ok, %{"rpc" => "Calls"}}
      end)

      assert {:ok, %{restarts: 0}} = Snakepit.stats(pool)
    end
  end

  defp servers!, do: for(_ <- 1..2, do: start_server!(listen: "tcp:127.0.0.1:0"))

  defp balancer!(servers, _dir) do
    addresses = Enum.map_join(servers, ",", &String.replace_prefix(&1.address, "tcp:", ""))
    start_program!(".venv/bin/python", ["test/support/python/balancer.py", addresses], []).address
  end

  defp haproxy!(servers, dir, balance \\ "roundrobin") do
    socket = Path.join(System.tmp_dir!(), "haproxy-#{System.unique_integer([:positive])}.sock")
    config = Path.join(dir, "haproxy.cfg")

    backends =
      for %{address: "tcp:" <> address} <- servers,
          do: "  server #{address} #{address} proto h2 check inter 100 fall 1\n"

    File.write!(config, """
    defaults
      mode http
      timeout connect 60s
      timeout client 600s
      timeout server 600s
      option redispatch 1
    frontend clients
      bind unix@#{socket} proto h2
      default_backend servers
    backend servers
      balance #{balance}
    #{backends}
    """)

    port =
      Port.open({:spawn_executable, System.find_executable("haproxy")}, [
        :binary,
        :stderr_to_stdout,
        args: ["-db", "-f", config]
      ])

    {:os_pid, os_pid} = Port.info(port, :os_pid)

    on_exit(fn ->
      System.cmd("kill", ["-KILL", to_string(os_pid)], stderr_to_stdout: true)
      File.rm(socket)
    end)

    "unix:" <> socket
  end

  defp connected(address, options \\ []) do
    case Client.connect(address, options) do
      {:ok, channel} -> channel
      {:error, _error} -> nil
    end
  end

  defp pid(channel) do
    assert {:ok, %{"pid" => pid}} = Client.execute(channel, "pid")
    pid
  end

  # The server that gets all calls, once `Calls` is open: without it each call goes to the next one.
  defp only_pid(channel) do
    answers = for _ <- 1..6, do: Client.execute(channel, "pid")

    case Enum.uniq(answers) do
      [{:ok, %{"pid" => pid}}] -> pid
      _others -> nil
    end
  end
end
