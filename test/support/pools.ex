defmodule Snakepit.Test.Pools do
  @moduledoc false
  # Pools of real Python workers for tests, each under its own name.

  import ExUnit.Callbacks

  @doc "Starts a pool of the test commands, waits until it is ready, and returns its name."
  def start_pool!(options \\ []) do
    name = start_pool_unready!(options)
    :ok = Snakepit.Pool.await_ready(name, 20_000)
    name
  end

  def start_pool_unready!(options) do
    # No other run of the tests on this machine has one of that name.
    name = :"pool#{System.pid()}_#{System.unique_integer([:positive])}"
    args = [class: "trouble:Trouble", paths: ["test/support/python"]]
    # As in the tests of the Python package: another Python than the one of `.venv`.
    python =
      for python <- List.wrap(System.get_env("SNAKEPIT_TEST_PYTHON")), do: {:python, python}

    options = Keyword.merge([name: name, size: 1, adapter_args: args] ++ python, options)
    start_supervised!({Snakepit.Pool, options})
    name
  end

  @doc "Starts a pool of a server of the tests' own."
  def start_server_pool!(adapter, options \\ []) do
    env = %{"PYTHONPATH" => Path.expand("python")}
    start_pool!([adapter: adapter, adapter_args: [], env: env] ++ options)
  end

  @doc "The options of a pool of each way to a worker, with the way's name."
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

  @doc "The OS processes of a pool's workers, from the kernel's own table."
  def os_pids(pool) do
    for path <- Path.wildcard("/proc/[0-9]*/cmdline"),
        {:ok, line} <- [File.read(path)],
        String.contains?(line, "--worker-id\0#{inspect(pool)}/"),
        do: path |> Path.dirname() |> Path.basename() |> String.to_integer()
  end

  @doc "The native side of a pool."
  def native(pool) do
    {:ok, %{native: native}} = Snakepit.Pool.Manager.fetch(pool)
    native
  end

  def alive?(os_pid) do
    # A process that has ended and waits to be reaped is no longer alive.
    case File.read("/proc/#{os_pid}/stat") do
      {:ok, stat} -> not String.contains?(stat, ") Z ")
      {:error, _} -> false
    end
  end

  @doc "Polls until `condition` holds; fails when it does not within `timeout` ms."
  def eventually(condition, timeout \\ 5_000) do
    deadline = System.monotonic_time(:millisecond) + timeout
    poll(condition, deadline, timeout)
  end

  defp poll(condition, deadline, timeout) do
    cond do
      condition.() ->
        :ok

      System.monotonic_time(:millisecond) > deadline ->
        ExUnit.Assertions.flunk("did not come true within #{timeout} ms")

      true ->
        receive do
        after
          5 -> poll(condition, deadline, timeout)
        end
    end
  end
end
