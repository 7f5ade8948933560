defmodule Snakepit.ProcessTest do
  # Workers' processes: how they are started, what they print, and how their ends are reported.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Adapters.GenericPythonV2
  alias Snakepit.Error
  alias Snakepit.Native
  alias Snakepit.Pool.{Membership, OSProcess, Output, Pipe}
  alias Snakepit.Test.{Log, Peers}
  require Peers

  @moduletag :tmp_dir
  @commands [class: "output_commands:OutputCommands", paths: ["test/support/python"]]
  @patience 60_000

  defmodule NoInterpreter do
    @behaviour Snakepit.Adapter
    @impl true
    def executable_path, do: Path.join(System.tmp_dir!(), "snakepit_no_interpreter")
  end

  defmodule LyingStdio do
    @behaviour Snakepit.Adapter
    @impl true
    def executable_path, do: "python3"
    @impl true
    def script_path, do: Path.expand("test/support/python/lying_stdio.py")
  end

  for {way, options} <- ways() do
    describe "a worker (#{way})" do
      @options [adapter_args: @commands] ++ options

      test "prints text, whatever its bytes are" do
        pool = start_pool!(@options)
        Log.follow(pool)

        bytes =
          Snakepit.bytes(
            "10%\r20%\r30%\n\xfc\e[31m red\n<4>a warning\n<3>" <>
              String.duplicate("ä", 5_000) <> "\nno end"
          )

        {:ok, _} = Snakepit.execute("write", %{data: bytes}, pool: pool)
        lines = Log.await(pool, "no end")
        line = fn level, text -> {level, "[#{inspect(pool)}/1] #{text}"} end
        assert line.(:info, "30%") in lines
        refute Enum.any?(lines, fn {_level, text} -> text =~ "10%" end)
        assert line.(:info, "\uFFFD\\u{1b}[31m red") in lines
        assert line.(:warning, "a warning") in lines
        assert line.(:info, "no end") in lines

        assert [{:error, one}, {:error, two}] =
                 Enum.filter(lines, fn {_, text} -> text =~ "ää" end)

        assert String.valid?(one) and String.valid?(two)
      end

      test "shows an unfinished line" do
        pool = start_pool!(@options)
        data = Snakepit.bytes("still going")

        Log.follow(pool)
        {:ok, _} = Snakepit.execute("write", %{data: data}, pool: pool)
        Log.await(pool, "still going")
      end

      test "names pool, worker and request in Logger's metadata" do
        pool = start_pool!(@options)

        log =
          capture_log(
            [format: "$metadata$message\n", metadata: [:pool, :worker_id, :request_id]],
            fn ->
              options = [pool: pool, request_id: "request-17"]
              {:ok, _} = Snakepit.execute("log", %{text: "from logging"}, options)
              :ok = stop_supervised({Snakepit.Pool, pool})
            end
          )

        assert log =~
                 "pool=#{pool} worker_id=#{inspect(pool)}/1 request_id=request-17 [#{inspect(pool)}/1]"

        assert log =~ "mine: [request-17] from logging"
      end

      test "that exits on its own leaves its status and its last output" do
        pool = start_pool!(@options)
        words = Snakepit.bytes("before\nthe last words \xfc\n")

        Log.follow(pool)

        assert {:error, %Error{reason: :worker_crashed, message: message}} =
                 Snakepit.execute("leave", %{status: 7, words: words}, pool: pool)

        assert message =~ "it exited with status 7; its last output:\nbefore\nthe last words"
        assert String.valid?(message)
        Log.await(pool, "it exited with status 7; its last output:\nbefore")
      end

      test "that exits with a status that is not a signal's was not killed" do
        pool = start_pool!(@options)

        assert {:error, %Error{reason: :worker_crashed, message: message}} =
                 Snakepit.execute("leave", %{status: 255}, pool: pool)

        assert message =~ "it exited with status 255"
      end

      test "that is killed leaves its signal" do
        pool = start_pool!(@options)

        assert {:error, %Error{reason: :worker_crashed, message: message}} =
                 Snakepit.execute("kill", %{number: 9}, pool: pool)

        assert message =~ "it was killed by SIGKILL; the kernel's out-of-memory killer?"

        assert {:error, %Error{reason: :worker_crashed, message: message}} =
                 Snakepit.execute("segfault", %{}, pool: pool)

        assert message =~ "it was killed by SIGSEGV"
        # faulthandler says where.
        assert message =~ "Segmentation fault"
        assert message =~ "output_commands.py"
      end

      test "that is killed leaves its signal even if that is known only after seconds" do
        pool = start_pool!(@options)
        [worker] = worker_pids(pool)
        :ok = :sys.suspend(worker)
        call = Task.async(fn -> Snakepit.execute("kill", %{number: 9}, pool: pool) end)
        guessed = Task.yield(call, 2_500)
        :ok = :sys.resume(worker)
        assert guessed == nil
        assert {:error, %Error{reason: :worker_crashed, message: message}} = await(call)
        assert message =~ "it was killed by SIGKILL"
      end

      test "that dies while a cancelled call runs leaves its own reason", context do
        pool = start_pool!(unquote(options))
        os_pid = os_pid(pool)
        [worker] = worker_pids(pool)
        monitor = Process.monitor(worker)
        args = %{seconds: 600, started: Path.join(context.tmp_dir, "started")}
        run_out!("sleep", args, pool: pool)
        signal("KILL", os_pid)
        assert_receive {:DOWN, ^monitor, :process, ^worker, {:shutdown, reason}}, @patience
        assert {:exited, "it was killed by SIGKILL" <> _} = reason
      end

      test "whose process in the BEAM is killed fails its calls, and they say so", context do
        pool = start_pool!(unquote(options))
        [worker] = worker_pids(pool)
        args = %{seconds: 60, started: Path.join(context.tmp_dir, "started")}
        call = Task.async(fn -> Snakepit.execute("sleep", args, pool: pool) end)
        eventually(fn -> File.exists?(args.started) end)
        Process.exit(worker, :kill)
        assert {:error, %Error{reason: :worker_crashed, message: message}} = await(call)
        assert message =~ "its process has ended"
      end

      test "receives its variables unchanged, byte by byte" do
        env = %{"BYTES" => <<255, 1>>, "EMPTY" => "", "ŁÓDŹ.x" => "ł", "OMP_NUM_THREADS" => "3"}
        pool = start_pool!([env: env, thread_limit: 2] ++ @options)
        {:ok, seen} = Snakepit.execute("variables", %{}, pool: pool)

        for {name, value} <- env do
          assert seen[Base.encode16(name, case: :lower)] == Base.encode16(value, case: :lower)
        end
      end

      test "whose last output is not UTF-8 does not start, and affects nothing else" do
        class = [class: "output_commands:BadLastWords", paths: ["test/support/python"]]
        pool = start_pool_unready!([adapter_args: class] ++ unquote(options))

        assert {:error, %Error{reason: :worker_start_failed, message: message}} =
                 Snakepit.Pool.await_ready(pool, @patience)

        assert String.valid?(message)
        assert message =~ "it exited with status 3; its last output:\n\uFFFD\nää"
      end
    end
  end

  test "an error says why an executable cannot be run", %{tmp_dir: dir} do
    script = NoInterpreter.executable_path()
    File.write!(script, "#!#{dir}/nowhere\n")
    File.chmod!(script, 0o755)
    pool = start_pool_unready!(adapter: NoInterpreter, adapter_args: [])

    assert {:error, %Error{reason: :worker_start_failed, message: message}} =
             Snakepit.Pool.await_ready(pool, @patience)

    assert message =~ "cannot execute #{script}"
    assert message =~ "the interpreter named in its first line does not exist"
    File.rm!(script)
  end

  test "a worker that claims a huge size is killed, and no memory is allocated" do
    pool = start_pool!(adapter: LyingStdio, adapter_args: [])

    assert {:error, %Error{reason: :worker_crashed, message: message}} =
             Snakepit.execute("large", %{}, pool: pool)

    assert message =~ "it wrote a message of 4294967295 bytes to its standard output"
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
  end

  test "a worker that sends unrequested messages is killed, and fills no mailbox" do
    pool = start_pool!(adapter: LyingStdio, adapter_args: [])
    Log.follow(pool)
    assert {:ok, %{}} = Snakepit.execute("many", %{}, pool: pool)
    Log.await(pool, "it wrote a message to its standard output that answers no request")
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
  end

  test "a worker that closes its standard input is killed, and a call that it does not get runs in another" do
    pool = start_pool!(adapter: LyingStdio, adapter_args: [], health_interval: :infinity)
    Log.follow(pool)
    assert {:ok, %{}} = Snakepit.execute("close_input", %{}, pool: pool)
    Log.await(pool, "closed now")
    options = [pool: pool, timeout: @patience, queue_timeout: @patience]
    assert {:ok, _} = Snakepit.execute("ping", %{}, options)
    Log.await(pool, "it closed its standard input")
  end

  test "a worker that closes its standard output is killed" do
    pool = start_pool!(adapter: LyingStdio, adapter_args: [], health_interval: :infinity)
    Log.follow(pool)
    assert {:ok, %{}} = Snakepit.execute("close_output", %{}, pool: pool)
    Log.await(pool, "it closed its standard output")
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
  end

  test "a worker over stdin and stdout that is killed while a message is written to it leaves its signal" do
    pool = start_pool!(adapter: GenericPythonV2)
    os_pid = os_pid(pool)
    [worker] = worker_pids(pool)
    signal("STOP", os_pid)
    args = %{text: String.duplicate("x", 1_000_000)}
    call = Task.async(fn -> Snakepit.execute("echo", args, pool: pool, timeout: @patience) end)
    eventually(fn -> map_size(:sys.get_state(worker).calls) == 1 end)
    signal("KILL", os_pid)
    assert {:error, %Error{reason: :worker_crashed, message: message}} = await(call)
    assert message =~ "it was killed by SIGKILL"
  end

  test "a process that has reused a worker's pid is left alone" do
    port = Port.open({:spawn_executable, "/bin/cat"}, [:exit_status])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    born = Native.process_started(os_pid)
    refute Native.signal_group(os_pid, born - 1, true)
    refute Native.signal_group(os_pid, nil, true)
    assert alive?(os_pid)
    assert Native.signal_group(os_pid, born, true)
    assert_receive {^port, {:exit_status, 137}}, @patience
  end

  test "the memory of a worker is unknown where there is neither /proc nor a program `ps`" do
    peer = Peers.start!(snakepit: false)
    :ok = Peers.call(peer, System, :put_env, ["PATH", "/nowhere"])
    process = %OSProcess{os_pid: String.to_integer(System.pid()), born: nil}
    assert Peers.call(peer, OSProcess, :memory, [process]) == nil
  end

  test "the end of the output of a worker that has exited is waited for, however late it is" do
    ref = make_ref()
    process = %OSProcess{output: %Output{ref: ref}}
    membership = %Membership{process: process, exit_text: "it exited with status 1"}
    assert {:noreply, membership} = Membership.handle_info(:output_timeout, membership)
    assert {:stop, membership} = Membership.handle_info({ref, {:ended, ["no model"]}}, membership)

    assert Membership.stop_reason(membership) ==
             {:shutdown, {:exited, "it exited with status 1; its last output:\nno model"}}
  end

  test "a named pipe is used if no other can be opened", %{tmp_dir: dir} do
    path = Path.join(dir, "pipe")
    ref = make_ref()
    me = self()
    open = &Native.output_open(ref, me, "token", &1)
    assert {:ok, output, ^path} = Pipe.open_named(open, path)
    {_, 0} = System.cmd("sh", ["-c", "printf 'token here\\nlast' > #{path}"])
    assert_receive {^ref, {:announced, "here"}}, @patience
    :ok = Native.output_finish(output)
    assert_receive {^ref, {:ended, ["last"]}}, @patience
    assert {[{6, nil, "last"}], 0, true} = Native.output_take(output)
    :ok = Pipe.opened(path)
    refute File.exists?(path)
  end

  test "no named pipe stays if one cannot be opened", %{tmp_dir: dir} do
    path = Path.join(dir, "pipe")
    full = fn _path -> {:error, "too many open files"} end
    assert Pipe.open_named(full, path) == {:error, "too many open files"}
    refute File.exists?(path)
    me = self()

    first = fn
      nil ->
        :named

      path ->
        send(me, {:created, path})
        {:ok, make_ref(), path}
    end

    assert Pipe.open_all([first, full]) == {:error, "too many open files"}
    assert_received {:created, path}
    refute File.exists?(path)
    assert {:ok, [{_, one}, {_, two}]} = Pipe.open_all([first, first])
    assert File.exists?(one) and File.exists?(two)
    for path <- [one, two], do: Pipe.opened(path)
  end

  test "a worker that does not start because the BEAM has no port left says so", %{tmp_dir: dir} do
    peer = Peers.start!(args: [~c"+Q", ~c"1024"])

    options = [
      name: :"pool#{System.unique_integer([:positive])}",
      adapter: GenericPythonV2,
      adapter_args: @commands
    ]

    result =
      Peers.on peer do
        Snakepit.Test.Peers.take_ports()
        {:ok, _} = Snakepit.Pool.start_link(options)
        ready = Snakepit.Pool.await_ready(options[:name], 60_000)

        {ready, Snakepit.Pool.Pipe.open_named(&String.upcase/1, Path.join(dir, "pipe"))}
      end

    assert {{:error, %Error{reason: :worker_start_failed, message: message}}, pipe} = result
    assert message =~ "the BEAM has no port left"
    assert {:error, "mkfifo cannot be run: a system limit" <> _} = pipe
  end

  test "a named pipe that cannot be created is an error", %{tmp_dir: dir} do
    path = Path.join(dir, "pipe")
    File.touch!(path)
    assert {:error, message} = Pipe.open_named(&flunk/1, path)
    assert message =~ "exists"
    assert File.exists?(path)
    peer = Peers.start!(snakepit: false)
    true = Peers.call(peer, :os, :putenv, [~c"PATH", ~c""])

    assert Peers.call(peer, Pipe, :open_named, [&String.upcase/1, path]) ==
             {:error, "mkfifo cannot be run: no such file or directory"}
  end
end
