defmodule Snakepit.Pool.RuntimeDir do
  @moduledoc false
  # The directory of the Unix sockets of a pool's workers. It is created when the first worker
  # asks for a path in it, created again if it is gone, and removed with the pool. The next pool
  # of the same user removes what a killed BEAM has left of its pools.
  use GenServer

  alias Snakepit.Config.Paths
  alias Snakepit.Native

  # A socket's path has at most 103 bytes on macOS, and 107 on Linux.
  @longest_parent 60

  defstruct [:root, :parents, :dir, :path, count: 0, sockets: %{}]

  @doc "Options: `:root`, from which a relative `TMPDIR` starts, or `:parents`, the directories to create it in."
  def start_link(options), do: GenServer.start_link(__MODULE__, options)

  @doc """
  Returns a path for the calling worker's socket, to which it appends `.sock`. The socket is
  removed when the caller ends.
  """
  @spec path(pid, timeout) :: {:ok, Path.t()} | {:error, String.t()}
  def path(server, timeout), do: GenServer.call(server, :path, timeout)

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    {:ok, struct!(__MODULE__, options)}
  end

  @impl true
  def handle_call(:path, {caller, _tag}, state) do
    case ensure(state) do
      {:ok, %{count: count} = state} ->
        monitor = Process.monitor(caller)
        sockets = Map.put(state.sockets, monitor, {state.dir, "#{count}.sock"})
        reply = {:ok, Path.join(state.path, to_string(count))}
        {:reply, reply, %{state | count: count + 1, sockets: sockets}}

      {:error, message} ->
        {:reply, {:error, message}, state}
    end
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _worker, _reason}, state) do
    {{dir, name}, sockets} = Map.pop!(state.sockets, monitor)
    Native.runtime_dir_unlink(dir, name)
    {:noreply, %{state | sockets: sockets}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    if state.dir, do: Native.runtime_dir_remove(state.dir)
  end

  defp ensure(state) do
    cond do
      state.dir == nil -> create(state)
      Native.runtime_dir_intact(state.dir) -> {:ok, state}
      true -> replace(state)
    end
  end

  # The rest of it would have no owner: connected workers no longer need the name of a socket.
  defp replace(state) do
    Native.runtime_dir_remove(state.dir)
    create(%{state | dir: nil})
  end

  defp create(state) do
    (state.parents || parents(state.root))
    |> Enum.reduce_while([], fn parent, failed ->
      case create_in(parent) do
        {:ok, dir, path} -> {:halt, %{state | dir: dir, path: path}}
        {:error, why} -> {:cont, ["#{parent}: #{why}" | failed]}
      end
    end)
    |> case do
      %__MODULE__{} = state -> {:ok, state}
      failed -> {:error, error(Enum.reverse(failed))}
    end
  end

  defp create_in(parent) when byte_size(parent) > @longest_parent,
    do: {:error, "its name has more than #{@longest_parent} bytes"}

  defp create_in(parent) do
    random = Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
    path = Path.join(parent, "snakepit-" <> random)

    with {:ok, dir} <- Native.runtime_dir_create(path) do
      spawn(fn -> sweep(parent) end)
      {:ok, dir, path}
    end
  end

  # Nothing waits for it: a directory of a hundred thousand entries takes time. One sweep at a
  # time, so that they do not occupy all threads that create directories.
  defp sweep(parent) do
    :global.trans({__MODULE__, self()}, fn -> Native.runtime_dir_sweep(parent) end, [node()])
  end

  # `/dev/shm` is writable in containers whose root is read-only.
  defp parents(root) do
    [System.get_env("TMPDIR"), "/tmp", System.get_env("XDG_RUNTIME_DIR"), "/dev/shm"]
    |> Enum.reject(&(&1 in [nil, ""]))
    |> Enum.map(&Paths.absolute(&1, root))
    |> Enum.uniq()
  end

  defp error(failed) do
    "cannot create a directory for the workers' Unix sockets (#{Enum.join(failed, "; ")}); set the " <>
      "environment variable TMPDIR to a writable directory with a name of at most " <>
      "#{@longest_parent} bytes, or the pool's option transport: :tcp"
  end
end
