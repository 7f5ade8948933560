defmodule Snakepit.PoolTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.Pool.Registry
  alias Snakepit.Test.Endpoints

  @moduletag :tmp_dir

  test "the caller's death reaches Python, and the worker serves the next one", %{tmp_dir: dir} do
    pool = start_pool!()
    before = os_pid(pool)
    closed = Path.join(dir, "closed")
    me = self()

    caller =
      spawn(fn ->
        Snakepit.execute_stream("endless", %{closed: closed}, &send(me, &1), pool: pool)
      end)

    assert_receive %{"index" => 100}
    Process.exit(caller, :kill)
    eventually(fn -> File.exists?(closed <> ".cancelled") and File.exists?(closed) end)
    assert os_pid(pool) == before
  end

  test "a pool starts beside processes that have names like its own" do
    name = :"Beside#{System.pid()}_#{System.unique_integer([:positive])}"
    alias_of = Module.concat([name])
    {:ok, _} = Agent.start_link(fn -> nil end, name: Module.concat(name, "Manager"))

    for name <- [name, alias_of],
        do: assert({:ok, _} = Snakepit.execute("ping", %{}, pool: start_pool!(name: name)))
  end

  test "a message that nobody expects stops no pool" do
    for pool <- [start_pool!(), Endpoints.start_pool!([])] do
      {:ok, %{manager: manager}} = Registry.fetch(pool)
      monitor = Process.monitor(manager)

      for process <- [manager | worker_pids(pool)],
          message <- [:unexpected, {make_ref(), :late}, {:snakepit_session, :unknown}],
          do: send(process, message)

      assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
      assert {:ok, %{ready: 1}} = Snakepit.stats(pool)
      refute_received {:DOWN, ^monitor, :process, ^manager, _reason}
    end
  end

  test "serves over TCP, with a secret that others do not have" do
    pool = start_pool!(transport: :tcp)
    assert {:ok, %{"status" => "ok"}} = Snakepit.execute("ping", %{}, pool: pool)
    port = listening_port(os_pid(pool))
    {:ok, channel} = Snakepit.GRPC.Client.connect("tcp:127.0.0.1:#{port}")

    assert {:error, %Error{reason: :unauthenticated}} =
             Snakepit.GRPC.Client.execute(channel, "ping")
  end

  test "over TCP workers take the free ports of a range" do
    {:ok, taken} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, first} = :inet.port(taken)
    pool = start_pool!(transport: :tcp, base_port: first, port_range: 40, size: 2)
    ports = for os_pid <- os_pids(pool), do: listening_port(os_pid)
    assert [_, _] = Enum.uniq(ports)
    for port <- ports, do: assert(port in (first + 1)..(first + 39))
  end

  test "the thread limit applies only to workers, and :env takes precedence" do
    variables = ~w(OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS)
    host = Enum.map(variables, &System.get_env/1)
    pool = start_pool!(thread_limit: 3, env: %{"MKL_NUM_THREADS" => "7"})
    args = %{names: variables}
    assert {:ok, %{"result" => ~w(3 7 3)}} = Snakepit.execute("environment", args, pool: pool)
    assert Enum.map(variables, &System.get_env/1) == host
  end

  test "a worker's C library keeps memory for large values, and huge pages for larger ones" do
    args = %{names: ["GLIBC_TUNABLES"]}

    for {options, huge?} <- [{[], false}, {[max_message_size: 100_000_000], true}] do
      pool = start_pool!(options)
      # The worker's children do not inherit it.
      assert {:ok, %{"result" => [nil]}} = Snakepit.execute("environment", args, pool: pool)

      if File.exists?("/proc/self/environ") do
        # glibc separates the settings by NUL.
        environment = File.read!("/proc/#{os_pid(pool)}/environ")
        assert environment =~ "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=16777216"
        assert environment =~ "glibc.malloc.hugetlb=1" == huge?
      end
    end

    own = "glibc.malloc.tcache_count=1"
    pool = start_pool!(env: %{"GLIBC_TUNABLES" => own})
    assert {:ok, %{"result" => [^own]}} = Snakepit.execute("environment", args, pool: pool)
  end

  test "wrong options are named when the pool starts" do
    assert {:error, %Error{reason: :invalid_options, message: message}} =
             Snakepit.Pool.start_link(name: :wrong, size: 0)

    assert message =~ ":size" and message =~ "0"

    assert {:error, %Error{message: message}} = Snakepit.Pool.start_link(name: :wrong, sice: 1)
    assert message =~ ":sice" and message =~ ":size"
  end

  # The port that a process listens on, from the kernel's table.
  defp listening_port(os_pid) do
    inodes =
      for fd <- File.ls!("/proc/#{os_pid}/fd"),
          {:ok, "socket:[" <> inode} <- [File.read_link("/proc/#{os_pid}/fd/#{fd}")],
          do: String.trim_trailing(inode, "]")

    ["tcp", "tcp6"]
    |> Stream.flat_map(&File.stream!("/proc/#{os_pid}/net/#{&1}"))
    |> Stream.map(&String.split/1)
    |> Enum.find_value(fn [_sl, local, _remote, state | rest] ->
      if state == "0A" and Enum.at(rest, 5) in inodes do
        local |> String.split(":") |> List.last() |> String.to_integer(16)
      end
    end)
  end
end
