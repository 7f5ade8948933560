defmodule Snakepit.Test.Pools do
  @moduledoc false
  # Pools of real Python workers for tests, each under its own name.

  import ExUnit.Callbacks

  alias Snakepit.Error

  # Longer than any step takes on any machine, in ms; no successful test waits for it.
  @patience 60_000

  # The same for all limits that a slow machine could exceed; a test of one of these limits sets
  # it itself.
  @patient [
    startup_timeout: 2 * @patience,
    timeout: @patience,
    queue_timeout: @patience,
    kill_grace: @patience
  ]

  def patience, do: @patience

  @doc "Starts a pool of the test commands, waits until it is ready, and returns its name."
  def start_pool!(options \\ []) do
    name = start_pool_unready!(options)
    :ok = await_ready(name)
    name
  end

  def start_pool_unready!(options) do
    # No other run of the tests on this machine has a pool of that name.
    name = :"pool#{System.pid()}_#{System.unique_integer([:positive])}"
    args = [class: "trouble:Trouble", paths: ["test/support/python"]]
    # As in the tests of the Python package: use another Python than the one of `.venv`.
    python =
      for python <- List.wrap(System.get_env("SNAKEPIT_TEST_PYTHON")), do: {:python, python}

    defaults = [name: name, size: 1, adapter_args: args] ++ python ++ @patient
    options = Keyword.merge(defaults, options)
    start_supervised!({Snakepit.Pool, options})
    options[:name]
  end

  @doc "Starts a pool of a server that belongs to the tests."
  def start_server_pool!(adapter, options \\ []) do
    env = %{"PYTHONPATH" => Path.expand("python")}
    start_pool!(Keyword.merge([adapter: adapter, adapter_args: [], env: env], options))
  end

  @doc "The options of a pool for each kind of worker, with the kind's name."
  def ways do
    [
      Native: [server: :native],
      Grpcio: [server: :grpcio],
      Stdio: [adapter: Snakepit.Adapters.GenericPythonV2]
    ]
  end

  @doc "The OS process of a worker of the pool."
  def os_pid(pool) do
    {:ok, %{"pid" => pid}} = Snakepit.execute("pid", %{}, pool: pool)
    pid
  end

  @doc "The OS processes of a pool's workers, from the kernel's table."
  def os_pids(pool) do
    for path <- Path.wildcard("/proc/[0-9]*/cmdline"),
        {:ok, line} <- [File.read(path)],
        String.contains?(line, "--worker-id\0#{inspect(pool)}/"),
        do: path |> Path.dirname() |> Path.basename() |> String.to_integer()
  end

  @doc "The native resource of a pool."
  def native(pool) do
    {:ok, %{native: native}} = Snakepit.Pool.Registry.fetch(pool)
    native
  end

  defdelegate alive?(os_pid), to: Snakepit.Test.OS

  @doc "Sends a signal to a process of the operating system."
  def signal(name, os_pid), do: System.cmd("kill", ["-#{name}", to_string(os_pid)])

  @doc "Stops a process with SIGSTOP, and returns once all of its threads stand still."
  def suspend!(os_pid) do
    {_, 0} = signal("STOP", os_pid)
    eventually(fn -> Snakepit.Test.OS.stopped?(os_pid) end)
  end

  @doc "The worker processes of a pool."
  def worker_pids(pool) do
    {:ok, %{manager: manager}} = Snakepit.Pool.Registry.fetch(pool)

    for %{pid: pid} when pid != nil <- GenServer.call(manager, :overview, @patience).workers,
        do: pid
  end

  @doc """
  Calls `fun` with a short time in ms, and with longer ones while it returns `:too_short`, which
  means that the expected event has not happened within that time on this machine.
  """
  def with_time(fun, time \\ 100) do
    case fun.(time) do
      :too_short when time < @patience -> with_time(fun, 4 * time)
      :too_short -> ExUnit.Assertions.flunk("#{time} ms were too short as well")
      result -> result
    end
  end

  @doc """
  The error of a call that passes its deadline while it runs, as the file `started` shows, and its
  timeout.
  """
  def run_out!(command, args, options) do
    with_time(fn timeout ->
      {:error, %Error{reason: :timeout} = error} =
        Snakepit.execute(command, args, Keyword.put(options, :timeout, timeout))

      if File.exists?(args.started) and not error.details.queued,
        do: {error, timeout},
        else: :too_short
    end)
  end

  @doc "Like `Snakepit.Pool.await_ready/2`, with patience."
  def await_ready(pool), do: Snakepit.Pool.await_ready(pool, 2 * @patience)

  def await(task), do: Task.await(task, @patience)
  def await_many(tasks), do: Task.await_many(tasks, @patience)

  @doc "The lines that a worker has written to a file so far."
  def lines(path) do
    case File.read(path) do
      {:ok, text} -> String.split(text, "\n", trim: true)
      {:error, :enoent} -> []
    end
  end

  @doc "Polls until `condition` is truthy, and returns its value; fails after `timeout` ms."
  def eventually(condition, timeout \\ @patience) do
    deadline = System.monotonic_time(:millisecond) + timeout
    poll(condition, deadline, timeout)
  end

  defp poll(condition, deadline, timeout) do
    if result = condition.() do
      result
    else
      if System.monotonic_time(:millisecond) > deadline,
        do: ExUnit.Assertions.flunk("did not come true within #{timeout} ms")

      receive do
      after
        5 -> poll(condition, deadline, timeout)
      end
    end
  end
end
