defmodule Snakepit.CallsReaderTest do
  # The process that reads the replies of a worker, and the native side that takes the socket back from it.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  defp reader(pool) do
    [worker] = worker_pids(pool)
    :sys.get_state(worker).reader
  end

  # Whether the process has a port, which reads the socket.
  defp reads?(reader) do
    {:links, links} = Process.info(reader, :links)
    Enum.any?(links, &is_port/1)
  end

  defp echo(pool, size) do
    text = String.duplicate("x", size)

    # A failure does not print it.
    case Snakepit.execute("echo", %{text: text}, pool: pool) do
      {:ok, %{"text" => echo}} -> unless echo == text, do: flunk("another text than was sent")
      {:error, error} -> raise error
    end
  end

  test "it reads until much arrives, and again after some small replies" do
    pool = start_pool!()
    reader = reader(pool)

    for _ <- 1..3 do
      eventually(fn ->
        echo(pool, 10)
        reads?(reader)
      end)

      # How many bytes a port reads at once is the kernel's to say.
      eventually(fn ->
        echo(pool, 3_000_000)
        not reads?(reader)
      end)
    end
  end

  for {kind, options} <- ways(), kind != :Stdio do
    @tag options: options
    test "#{kind}: replies of all sizes reach their callers whole", context do
      pool = start_pool!([max_concurrency: 4, timeout: patience()] ++ context.options)
      sizes = [0, 1, 1_000, 15_000, 17_000, 65_000, 66_000, 200_000, 300_000, 2_000_000]

      1..8
      |> Enum.map(fn n ->
        Task.async(fn ->
          :rand.seed(:exsss, n)
          for size <- Enum.shuffle(sizes ++ List.duplicate(10, 40)), do: echo(pool, size)
        end)
      end)
      |> Task.await_many(:infinity)
    end

    @tag options: options
    @tag :tmp_dir
    test "#{kind}: when it is killed its calls fail, and another worker comes", context do
      pool = start_pool!(context.options)
      os_pid = os_pid(pool)
      reader = reader(pool)
      args = %{seconds: patience(), started: Path.join(context.tmp_dir, "started")}
      call = Task.async(fn -> Snakepit.execute("sleep", args, pool: pool) end)
      eventually(fn -> File.exists?(args.started) end)
      Process.exit(reader, :kill)
      assert {:error, %Error{reason: :worker_crashed} = error} = await(call)
      assert error.message =~ "the process that reads its replies has exited: :killed"
      eventually(fn -> not alive?(os_pid) end)
      assert os_pid(pool) != os_pid
    end
  end

  test "when it is killed while the native side reads, another worker comes" do
    pool = start_pool!()
    os_pid = os_pid(pool)
    reader = reader(pool)

    eventually(fn ->
      echo(pool, 3_000_000)
      not reads?(reader)
    end)

    Process.exit(reader, :kill)
    eventually(fn -> not alive?(os_pid) end)
    assert os_pid(pool) != os_pid
  end

  test "it keeps no replies" do
    pool = start_pool!()
    reader = reader(pool)
    for n <- 1..2_000, do: echo(pool, 200 + n)
    {:binary, binaries} = Process.info(reader, :binary)
    assert Enum.sum(for {_id, size, _count} <- binaries, do: size) < 500_000
  end

  test "its end is the worker's, whose cause it does not report once more" do
    pool = start_pool!()
    [worker] = worker_pids(pool)
    monitor = Process.monitor(reader(pool))
    Process.exit(worker, :kill)
    assert_receive {:DOWN, ^monitor, :process, _reader, :normal}, patience()
    eventually(fn -> worker_pids(pool) not in [[], [worker]] end)
    monitor = Process.monitor(reader(pool))
    stop_supervised!({Snakepit.Pool, pool})
    assert_receive {:DOWN, ^monitor, :process, _reader, _reason}, patience()
  end
end
