defmodule Snakepit.StartJournalTest do
  # How the BEAM knows which calls have started when their worker has died, and that it opens
  # nothing for this that a server names.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.GRPC.Client

  @moduletag :tmp_dir
  @patience 60_000
  @options [timeout: @patience, queue_timeout: @patience]
  @journal "memfd:snakepit-start-journal"

  defmodule Naming do
    use Snakepit.Test.ServerAdapter, script: "naming_server.py"
  end

  defp start_marking_pool!(dir, options \\ []) do
    marks = Path.join(dir, "marks")
    File.touch!(marks)
    args = [class: "journal_commands:Marks", paths: ["test/support/python"]]
    options = Keyword.merge([adapter_args: args, env: %{"MARKS" => marks}], options)
    %{pool: start_pool!(options), marks: marks}
  end

  test "however a worker dies, no call runs twice, and every answered call has run", context do
    options = [size: 2, restart_backoff: {10, 50}]
    %{pool: pool, marks: marks} = start_marking_pool!(context.tmp_dir, options)

    for _ <- 1..50,
        do: {:ok, _} = Snakepit.execute("mark", %{number: 0}, [pool: pool] ++ @options)

    answers =
      1..16
      |> Enum.map(fn caller -> Task.async(fn -> marks(pool, caller) end) end)
      |> Task.await_many(:infinity)
      |> List.flatten()

    ran = marks |> File.read!() |> String.split() |> Enum.map(&String.to_integer/1)

    assert [] ==
             for({number, times} when number > 0 <- Enum.frequencies(ran), times > 1, do: number)

    # A pool whose workers end as soon as they are ready refuses calls, which have not run.
    for {number, answer} <- answers, answer != :worker_crashed do
      assert answer in [:ok, :worker_start_failed]
      assert number in ran == (answer == :ok)
    end

    assert [] == [:ok, :worker_crashed] -- Enum.map(answers, &elem(&1, 1))
  end

  defp marks(pool, caller) do
    for call <- 1..100 do
      number = caller * 1000 + call
      args = %{number: number, dies: rem(number, 80) == 0}

      case Snakepit.execute("mark", args, [pool: pool] ++ @options) do
        {:ok, %{"result" => ^number}} -> {number, :ok}
        {:error, %Error{reason: reason}} -> {number, reason}
      end
    end
  end

  test "a pool's worker on a Unix socket has a journal, created by the BEAM", context do
    %{pool: pool} = start_marking_pool!(context.tmp_dir)
    # The worker uses it once several calls arrived together.
    eventually(fn -> uses_journal?(pool) end, @patience)
    # Processes that the worker starts do not receive it.
    assert {:ok, %{"result" => "none"}} =
             Snakepit.execute("variable", %{}, [pool: pool] ++ @options)

    own = File.stat!(variable(pool, "SNAKEPIT_START_JOURNAL"))
    assert own.size == 4096
    # It disappears with its worker.
    assert {:error, %Error{reason: :worker_crashed}} =
             Snakepit.execute("mark", %{number: 0, dies: true}, [pool: pool] ++ @options)

    eventually(fn -> own.inode not in journals() end, @patience)
  end

  defp uses_journal?(pool) do
    options = [pool: pool] ++ @options
    mark = fn number -> {:ok, _} = Snakepit.execute("mark", %{number: number}, options) end
    1..20 |> Enum.map(&Task.async(fn -> mark.(&1) end)) |> Task.await_many(@patience)
    {:ok, %{"result" => maps}} = Snakepit.execute("maps", %{}, options)
    maps =~ @journal
  end

  defp journals do
    for fd <- open_files(@journal),
        {:ok, %{inode: inode}} <- [File.stat("/proc/self/fd/#{fd}")],
        do: inode
  end

  test "a worker over TCP has no journal", %{tmp_dir: dir} do
    %{pool: pool} = start_marking_pool!(dir, transport: :tcp, base_port: 0)
    for _ <- 1..3, do: refute(uses_journal?(pool))
  end

  describe "a file that a server names" do
    setup %{tmp_dir: dir} do
      fifo = Path.join(dir, "fifo")
      {_, 0} = System.cmd("mkfifo", [fifo])
      regular = Path.join(dir, "file")
      File.write!(regular, <<0::4096*8>>)
      %{files: [fifo, regular, "/dev/zero"]}
    end

    test "is not opened for a pool's worker or any other server", %{files: files} do
      for file <- files do
        env = %{"PYTHONPATH" => Path.expand("python"), "NAMED_FILE" => file}
        pool = start_pool!(adapter: Naming, adapter_args: [], env: env, restart_backoff: {10, 50})

        # The server announces with every frame that it supports a journal. The client enables it
        # once, for a pool's worker.
        assert acts(&Snakepit.execute("ping", %{}, [pool: pool] ++ &1)) == [0, 3]
        assert {:ok, channel} = Client.connect(variable(pool, "SNAKEPIT_LISTEN"))
        assert acts(&Client.execute(channel, "ping", %{}, &1)) == [0]
        assert open_files(file) == []

        assert {:error, %Error{reason: :worker_crashed}} =
                 Client.execute(channel, "die", %{}, timeout: @patience)

        # The next worker serves.
        serves? = fn ->
          match?({:ok, _}, Snakepit.execute("ping", %{}, [pool: pool] ++ @options))
        end

        eventually(serves?, @patience)
        assert open_files(file) == []
      end
    end
  end

  # The acts of the frames that a server received after some calls, each act once.
  defp acts(call) do
    for _ <- 1..20, do: assert({:ok, %{"acts" => [_ | _]}} = call.(@options))
    {:ok, %{"acts" => acts}} = call.(@options)
    assert Enum.count(acts, &(&1 == 3)) <= 1
    acts |> Enum.uniq() |> Enum.sort()
  end

  # The files that this BEAM has open under a name.
  defp open_files(name) do
    for fd <- File.ls!("/proc/self/fd"),
        {:ok, target} <- [File.read_link("/proc/self/fd/#{fd}")],
        target =~ name,
        do: fd
  end

  # The environment with which a pool's worker was started.
  defp variable(pool, name) do
    {:ok, [%{os_pid: os_pid}]} = Snakepit.list_workers(pool)
    variables = "/proc/#{os_pid}/environ" |> File.read!() |> String.split("\0")
    Enum.find_value(variables, &if(String.starts_with?(&1, name <> "="), do: after_name(&1)))
  end

  defp after_name(variable), do: variable |> String.split("=", parts: 2) |> List.last()
end
