defmodule Snakepit.Faults.Proxy do
  @moduledoc false
  # A TCP proxy before a server. What it does to the bytes is chosen while connections are open:
  #
  #   * `:pass` - it passes them on
  #   * `{:delay, ms}` - each piece waits that long
  #   * `:trickle` - a byte a second
  #   * `:stall` - nothing passes, and nothing is closed
  use GenServer

  alias Snakepit.Faults.Server

  # How often a pump looks whether it may pass on what it holds, in ms.
  @poll 20

  @doc "Starts one; `address/1` is where it listens."
  def start!(target) do
    {:ok, proxy} = GenServer.start_link(__MODULE__, target)
    proxy
  end

  def address(proxy), do: GenServer.call(proxy, :address)
  def set(proxy, mode), do: GenServer.call(proxy, {:set, mode})

  @doc "Closes one direction of every connection: `:to_server`, `:to_client`, or both, `:all`, with a RST."
  def close(proxy, direction), do: GenServer.call(proxy, {:close, direction})

  @doc "How many connections it has accepted."
  def accepted(proxy), do: GenServer.call(proxy, :accepted)

  @impl true
  def init(target) do
    "tcp:" <> at = address = Server.free_address()
    [ip, port] = String.split(at, ":")
    {:ok, ip} = :inet.parse_address(to_charlist(ip))
    how = [:binary, ip: ip, active: false, reuseaddr: true, backlog: 128]
    {:ok, listener} = :gen_tcp.listen(String.to_integer(port), how)
    modes = :ets.new(:modes, [:public])
    :ets.insert(modes, {:mode, :pass})
    proxy = self()
    spawn_link(fn -> accept(proxy, listener, target, modes) end)
    {:ok, %{address: address, modes: modes, pairs: [], accepted: 0}}
  end

  @impl true
  def handle_call(:address, _from, state), do: {:reply, state.address, state}
  def handle_call(:accepted, _from, state), do: {:reply, state.accepted, state}

  def handle_call({:set, mode}, _from, state) do
    :ets.insert(state.modes, {:mode, mode})
    {:reply, :ok, state}
  end

  def handle_call({:close, direction}, _from, state) do
    for {client, server} <- state.pairs do
      case direction do
        :to_server -> :gen_tcp.shutdown(server, :write)
        :to_client -> :gen_tcp.shutdown(client, :write)
        :all -> for socket <- [client, server], do: reset(socket)
      end
    end

    {:reply, length(state.pairs), %{state | pairs: []}}
  end

  @impl true
  def handle_info({:pair, pair}, state),
    do: {:noreply, %{state | pairs: [pair | state.pairs], accepted: state.accepted + 1}}

  def handle_info({:gone, pair}, state),
    do: {:noreply, %{state | pairs: List.delete(state.pairs, pair)}}

  defp accept(proxy, listener, target, modes) do
    {:ok, client} = :gen_tcp.accept(listener)
    spawn(fn -> serve(proxy, client, target, modes) end) |> hand_over(client)
    accept(proxy, listener, target, modes)
  end

  defp hand_over(pid, socket) do
    :gen_tcp.controlling_process(socket, pid)
    send(pid, :go)
  end

  defp serve(proxy, client, "tcp:" <> at, modes) do
    receive do: (:go -> :ok)
    [ip, port] = String.split(at, ":")
    how = [:binary, active: false, nodelay: true]

    case :gen_tcp.connect(to_charlist(ip), String.to_integer(port), how, 5_000) do
      {:ok, server} ->
        :inet.setopts(client, nodelay: true)
        send(proxy, {:pair, {client, server}})
        back = Task.async(fn -> pump(server, client, modes) end)
        pump(client, server, modes)
        Task.await(back, :infinity)
        send(proxy, {:gone, {client, server}})
        for socket <- [client, server], do: :gen_tcp.close(socket)

      {:error, _} ->
        :gen_tcp.close(client)
    end
  end

  defp pump(from, to, modes) do
    case :gen_tcp.recv(from, 0) do
      {:ok, data} ->
        pass(data, to, modes)
        pump(from, to, modes)

      {:error, _} ->
        :gen_tcp.shutdown(to, :write)
    end
  end

  # What cannot be sent is dropped: the other direction may still be open.
  defp pass("", _to, _modes), do: :ok

  defp pass(<<first::binary-size(1), rest::binary>> = data, to, modes) do
    case :ets.lookup(modes, :mode) do
      [mode: :stall] ->
        Process.sleep(@poll)
        pass(data, to, modes)

      [mode: :trickle] ->
        :gen_tcp.send(to, first)
        Process.sleep(1_000)
        pass(rest, to, modes)

      [mode: {:delay, ms}] ->
        Process.sleep(ms)
        :gen_tcp.send(to, data)

      _ ->
        :gen_tcp.send(to, data)
    end
  end

  # Closed in this way, a socket sends a RST.
  defp reset(socket) do
    :inet.setopts(socket, linger: {true, 0})
    :gen_tcp.close(socket)
  end
end
