defmodule Snakepit.PoolTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.Test.Log

  @moduletag :tmp_dir

  # Keeps a worker busy until `free/1`; returns once the command runs.
  defp occupy(pool, dir) do
    args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
    task = Task.async(fn -> Snakepit.execute("hold", args, pool: pool) end)
    eventually(fn -> File.exists?(args.started) end)
    {task, args.until}
  end

  defp free({task, until}) do
    File.touch!(until)
    await(task)
  end

  test "a full queue refuses at once", %{tmp_dir: dir} do
    pool = start_pool!(max_queue: 0)
    held = occupy(pool, dir)

    assert {:error, %Error{reason: :pool_saturated, details: %{max_queue: 0}}} =
             Snakepit.execute("ping", %{}, pool: pool)

    assert {:error, %Error{reason: :pool_saturated}} =
             Snakepit.execute_stream("ping_stream", %{}, fn _ -> nil end, pool: pool)

    assert {:ok, _} = free(held)
  end

  test "a caller that waits too long gets an error, and the next is served", %{tmp_dir: dir} do
    pool = start_pool!(queue_timeout: 100)
    held = occupy(pool, dir)
    assert {:error, %Error{reason: :queue_timeout}} = Snakepit.execute("ping", %{}, pool: pool)

    assert {:error, %Error{reason: :queue_timeout}} =
             Snakepit.execute_stream("ping_stream", %{}, fn _ -> nil end, pool: pool)

    assert {:error, %Error{reason: :timeout, details: %{queued: true}}} =
             Snakepit.execute("ping", %{}, pool: pool, timeout: 50, queue_timeout: :infinity)

    assert {:ok, _} = free(held)
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool, queue_timeout: patience())
  end

  test "a call that takes too long ends at its deadline, and its worker is replaced", context do
    pool = start_pool!(kill_grace: 100)
    before = os_pid(pool)
    args = %{seconds: 600, started: Path.join(context.tmp_dir, "started")}
    run_out!("sleep", args, pool: pool)
    eventually(fn -> not alive?(before) end)
    assert os_pid(pool) != before
  end

  test "a call that stops when it is cancelled keeps its worker", %{tmp_dir: dir} do
    pool = start_pool!()
    before = os_pid(pool)
    [seen, started] = for name <- ~w(seen started), do: Path.join(dir, name)
    run_out!("wait_cancelled", %{seen: seen, started: started}, pool: pool)
    assert os_pid(pool) == before
    assert File.exists?(seen)
  end

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

  test "the death of a caller that waits frees its place in the queue", %{tmp_dir: dir} do
    pool = start_pool!(max_queue: 1)
    held = occupy(pool, dir)

    # The probe below may occupy the one place for a moment.
    insist = fn insist ->
      case Snakepit.execute("ping", %{}, pool: pool) do
        {:error, %Error{reason: :pool_saturated}} -> insist.(insist)
        answer -> answer
      end
    end

    waiting = spawn(fn -> insist.(insist) end)

    saturated? = fn ->
      match?(
        {:error, %Error{reason: :pool_saturated}},
        Snakepit.execute("ping", %{}, pool: pool, timeout: 20)
      )
    end

    eventually(saturated?)
    Process.exit(waiting, :kill)
    eventually(fn -> not saturated?.() end)
    free(held)
  end

  test "a worker that is killed fails its calls at once, and is replaced", %{
    tmp_dir: dir
  } do
    pool = start_pool!(max_concurrency: 4)
    before = os_pid(pool)

    tasks =
      for n <- 1..4 do
        started = Path.join(dir, "started#{n}")
        args = %{seconds: 600, started: started}
        task = Task.async(fn -> Snakepit.execute("sleep", args, pool: pool, timeout: 600_000) end)
        eventually(fn -> File.exists?(started) end)
        task
      end

    signal("KILL", before)

    for result <- await_many(tasks),
        do: assert({:error, %Error{reason: :worker_crashed}} = result)

    assert os_pid(pool) != before
  end

  test "a command that ends its process crashes the worker" do
    pool = start_pool!()
    assert {:error, %Error{reason: :worker_crashed}} = Snakepit.execute("die", %{}, pool: pool)
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
  end

  test "processes that handlers have started end with the pool" do
    pool = start_pool!()
    worker = os_pid(pool)
    {:ok, %{"pid" => child}} = Snakepit.execute("child", %{}, pool: pool)
    assert alive?(child)
    :ok = stop_supervised({Snakepit.Pool, pool})
    assert not alive?(worker)
    eventually(fn -> not alive?(child) end)
    assert {:error, %Error{reason: :pool_stopped}} = Snakepit.execute("ping", %{}, pool: pool)
  end

  test "messages above the limit are refused by name, in both directions" do
    pool = start_pool!(max_message_size: 100_000)

    assert {:error, %Error{reason: :message_too_large, message: message} = error} =
             Snakepit.execute("echo", %{blob: :binary.copy("x", 200_000)}, pool: pool)

    assert message =~ "100000" and message =~ ":max_message_size"
    assert error.details.limit == 100_000

    assert {:error, %Error{reason: :message_too_large, message: message}} =
             Snakepit.execute("blob", %{size: 200_000}, pool: pool)

    assert message =~ "100000" and message =~ "max_message_size"
    assert {:ok, _} = Snakepit.execute("blob", %{size: 90_000}, pool: pool)
  end

  test "prints and logs reach Logger with the worker's id, and break nothing" do
    pool = start_pool!()

    Log.follow(pool)
    assert {:ok, _} = Snakepit.execute("noise", %{megabytes: 4}, pool: pool)
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
    lines = Log.await(pool, "from logging")
    assert {:error, last} = List.last(lines)
    assert last =~ "[:#{pool}/1]"
    assert {:info, "[:#{pool}/1] from stderr"} in lines
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

  test "two pools are independent" do
    one = start_pool!()
    two = start_pool!()
    assert os_pid(one) != os_pid(two)
  end

  describe "a worker that does not start" do
    test "names the Python that was not found" do
      error = start_error(python: "/nowhere/python")
      assert error.message =~ "/nowhere/python" and error.message =~ ":python"
    end

    test "names the class or module that was not found" do
      assert start_error(adapter_args: [class: "nowhere:Class"]).message =~ "nowhere"
      assert start_error(adapter_args: [class: "snakepit_bridge:Missing"]).message =~ "Missing"
    end

    test "shows the end of its output", %{tmp_dir: dir} do
      File.write!(Path.join(dir, "broken.py"), "print('last words')\nraise SystemExit(3)\n")
      error = start_error(adapter_args: [class: "broken:Broken", paths: [dir]])
      assert error.message =~ "last words"
    end

    test "is tried again until the cause is gone", %{tmp_dir: dir} do
      file = Path.join(dir, "late.py")

      pool =
        start_pool_unready!(
          adapter_args: [class: "late:Late", paths: [dir]],
          restart_backoff: {50, 100}
        )

      assert {:error, %Error{reason: :worker_start_failed}} = await_ready(pool)

      assert {:error, %Error{reason: :worker_start_failed}} =
               Snakepit.execute("ping", %{}, pool: pool)

      File.write!(file, "from snakepit_bridge import BuiltinAdapter as Late\n")
      eventually(fn -> match?({:ok, _}, Snakepit.execute("ping", %{}, pool: pool)) end)
      assert :ok = await_ready(pool)
    end

    defp start_error(options) do
      pool = start_pool_unready!(options)

      assert {:error, %Error{reason: :worker_start_failed} = error} = await_ready(pool)

      assert {:error, %Error{reason: :worker_start_failed}} =
               Snakepit.execute("ping", %{}, pool: pool)

      error
    end
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
