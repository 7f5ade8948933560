defmodule Snakepit.GRPC.CallsReader do
  @moduledoc false
  # Reads the replies of a worker from the socket of its calls and passes them to the native side, which sends
  # them to the callers from here. A thread of the runtime would have to be woken for each reply; this process
  # is scheduled like any other.
  #
  # The native side asks for it, and takes the socket back while large replies arrive. The socket stays its own: a
  # port to a file descriptor does not close that.
  use GenServer

  alias Snakepit.Native

  # A reply must not wait for busy processes twice, here and then in its caller: among 40 of these on two schedulers one
  # caller made 600 calls/s with the usual priority, and makes 1,400. What was read is garbage at once: binaries of so
  # many words are kept at most, and the heap has room for many replies, so that it is not collected for each of them.
  @spawn_options [priority: :high, min_heap_size: 2_048, min_bin_vheap_size: 8_192]

  defstruct [:owner, :calls, :port]

  @doc "Starts the reader of the calling process, at whose end it ends, with no report of its own."
  @spec start_link() :: GenServer.on_start()
  def start_link, do: GenServer.start(__MODULE__, self(), spawn_opt: @spawn_options)

  @doc "Has it read the calls of a channel to a local worker."
  @spec read(pid, reference) :: :ok
  def read(reader, channel), do: GenServer.cast(reader, {:read, channel})

  @impl true
  def init(owner) do
    Process.flag(:trap_exit, true)
    Process.link(owner)
    {:ok, %__MODULE__{owner: owner}}
  end

  @impl true
  def handle_cast({:read, channel}, state) do
    Native.read_calls(channel)
    {:noreply, state}
  end

  @impl true
  def handle_info({port, {:data, data}}, %{port: port} = state) do
    case Native.feed_calls(state.calls, data) do
      :read ->
        {:noreply, state}

      :flush ->
        flush(state.calls)
        {:noreply, state}

      :stop ->
        {:noreply, stop(state), :hibernate}
    end
  end

  # The calls of another connection.
  def handle_info({:snakepit_read, calls, fd}, state) do
    state = stop(state)

    case open(fd) do
      {:ok, port} ->
        {:noreply, %{state | calls: calls, port: port}}

      :error ->
        Native.stop_feeding(calls)
        {:noreply, state, :hibernate}
    end
  end

  # The worker has closed its end, which the native side finds as well.
  def handle_info({:EXIT, port, _reason}, %{port: port} = state),
    do: {:noreply, stop(state), :hibernate}

  # The report of the cause is the worker's.
  def handle_info({:EXIT, owner, _reason}, %{owner: owner} = state), do: {:stop, :normal, state}

  # The end of a port that was closed here.
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: stop(state)

  defp open(fd) do
    {:ok, Port.open({:fd, fd, fd}, [:in, :binary])}
  rescue
    # The BEAM has no more ports.
    _error in [ArgumentError, ErlangError, SystemLimitError] -> :error
  end

  defp stop(%{port: nil} = state), do: state

  defp stop(%{calls: calls, port: port} = state) do
    close(port)
    feed_rest(calls, port)
    Native.stop_feeding(calls)
    %{state | calls: nil, port: nil}
  end

  defp close(port) do
    Port.close(port)
  rescue
    # It is closed already.
    ArgumentError -> true
  end

  # The callers that got replies are next in line: their next calls are sent together, by this process.
  defp flush(calls) do
    Process.flag(:priority, :normal)
    :erlang.yield()
    Native.flush_calls(calls)
    Process.flag(:priority, :high)
  end

  defp feed_rest(calls, port) do
    receive do
      {^port, {:data, data}} ->
        Native.feed_calls(calls, data)
        feed_rest(calls, port)
    after
      0 -> :ok
    end
  end
end
