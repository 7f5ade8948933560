defmodule Snakepit.Test.Proxy do
  @moduledoc false
  # Passes connections on to a server on this machine, and ends them as a test says.
  use GenServer

  @options [:binary, active: false, nodelay: true]

  @doc "Starts one before a server whose port will be in the file. Returns it and its address."
  def start!(port_file) do
    proxy = ExUnit.Callbacks.start_supervised!({__MODULE__, port_file})
    {proxy, "tcp:127.0.0.1:#{GenServer.call(proxy, :port)}"}
  end

  @doc """
  Ends all connections, and each of the next ones once its client has sent so many bytes, of which no more are passed on.
  """
  def break(proxy, limits), do: GenServer.call(proxy, {:break, limits})

  @doc "Ends all connections. The next ones are passed on only after `release/1`, which returns how many they were."
  def hold(proxy), do: GenServer.call(proxy, :hold)
  def release(proxy), do: GenServer.call(proxy, :release)

  @doc "How many connections are held."
  def held(proxy), do: GenServer.call(proxy, :held)

  @doc "The limits that are left."
  def limits(proxy), do: GenServer.call(proxy, :limits)

  def start_link(port_file), do: GenServer.start_link(__MODULE__, port_file)

  @impl true
  def init(port_file) do
    {:ok, listener} = :gen_tcp.listen(0, [ip: {127, 0, 0, 1}] ++ @options)
    proxy = self()
    spawn_link(fn -> accept(listener, proxy) end)
    state = %{listener: listener, port_file: port_file, held: nil}
    {:ok, Map.merge(state, %{limits: [], others: %{}, left: %{}})}
  end

  @impl true
  def handle_call(:port, _from, state) do
    {:ok, port} = :inet.port(state.listener)
    {:reply, port, state}
  end

  def handle_call({:break, limits}, _from, state),
    do: {:reply, :ok, %{close_all(state) | limits: limits}}

  def handle_call(:hold, _from, state), do: {:reply, :ok, %{close_all(state) | held: []}}

  def handle_call(:release, _from, %{held: held} = state),
    do: {:reply, length(held), Enum.reduce(held, %{state | held: nil}, &pass_on/2)}

  def handle_call(:held, _from, state), do: {:reply, length(state.held), state}

  def handle_call(:limits, _from, state), do: {:reply, state.limits, state}

  @impl true
  def handle_info({:accepted, client}, %{held: held} = state) when held != nil,
    do: {:noreply, %{state | held: [client | held]}}

  def handle_info({:accepted, client}, state), do: {:noreply, pass_on(client, state)}

  def handle_info({:tcp, socket, data}, state) when is_map_key(state.others, socket) do
    case state.left do
      %{^socket => left} when byte_size(data) >= left ->
        :gen_tcp.send(state.others[socket], binary_part(data, 0, left))
        {:noreply, close(socket, state)}

      %{^socket => left} ->
        :gen_tcp.send(state.others[socket], data)
        {:noreply, put_in(state.left[socket], left - byte_size(data))}

      _no_limit ->
        :gen_tcp.send(state.others[socket], data)
        {:noreply, state}
    end
  end

  def handle_info({:tcp_closed, socket}, state), do: {:noreply, close(socket, state)}
  def handle_info(_late, state), do: {:noreply, state}

  defp pass_on(client, state) do
    port = state.port_file |> File.read!() |> String.to_integer()
    {:ok, server} = :gen_tcp.connect({127, 0, 0, 1}, port, @options)
    state = update_in(state.others, &Map.merge(&1, %{client => server, server => client}))
    for socket <- [client, server], do: :inet.setopts(socket, active: true)

    case state.limits do
      [] -> state
      [0 | limits] -> close(client, %{state | limits: limits})
      [limit | limits] -> %{put_in(state.left[client], limit) | limits: limits}
    end
  end

  defp close_all(state) do
    for socket <- Map.keys(state.others), do: :gen_tcp.close(socket)
    %{state | others: %{}, left: %{}}
  end

  defp close(socket, state) do
    {other, others} = Map.pop(state.others, socket)
    for each <- [socket, other], each != nil, do: :gen_tcp.close(each)
    %{state | others: Map.delete(others, other), left: Map.drop(state.left, [socket, other])}
  end

  defp accept(listener, proxy) do
    {:ok, client} = :gen_tcp.accept(listener)
    :ok = :gen_tcp.controlling_process(client, proxy)
    send(proxy, {:accepted, client})
    accept(listener, proxy)
  end
end
