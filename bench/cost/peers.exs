defmodule Snakepit.Bench.Cost.Peers do
  @moduledoc false
  # Snakepit and its yardsticks: Python processes that echo a value. Each is a map with its
  # `:name`, the `:os_pids` of its processes, and `:echo`, a function from a value to that value.
  # With more than one process, every caller goes through them in turn, but Snakepit picks.

  alias Snakepit.Bench.Cost.{Json, PortPeer}

  @labels [snakepit: "snakepit", raw: "raw Port", json: "Port + JSON", erlport: "erlport"]
  def labels, do: @labels

  @doc "Starts those of the peers that the options have."
  def start(names, options, settings \\ []) do
    for name <- names, name != :erlport or options[:erlport], do: peer(name, options, settings)
  end

  def stop(%{stop: stop}), do: stop.()

  @doc "The peer's reply is what was sent."
  def check!(peer, value) do
    ^value = peer.echo.(value)
    :ok
  end

  defp peer(:snakepit, options, settings) do
    {size, pool_options} = Keyword.pop(settings, :size, 1)
    pool = :"bench_#{System.unique_integer([:positive])}"
    pool_options = [name: pool, size: size, python: python(options)] ++ pool_options
    {:ok, supervisor} = Snakepit.Pool.start_link(pool_options)
    :ok = Snakepit.Pool.await_ready(pool, 120_000)
    {:ok, workers} = Snakepit.list_workers(pool)

    echo = fn value ->
      {:ok, %{"data" => reply}} =
        Snakepit.execute("echo", %{data: value}, pool: pool, timeout: 120_000)

      reply
    end

    %{
      name: :snakepit,
      os_pids: Enum.map(workers, & &1.os_pid),
      echo: echo,
      stop: fn -> Supervisor.stop(supervisor) end
    }
  end

  defp peer(:raw, options, settings) do
    several(:raw, settings, fn ->
      {pid, os_pid} = PortPeer.start(python(options), "raw", nil)

      {os_pid, fn value -> GenServer.call(pid, value, :infinity) end,
       fn -> GenServer.stop(pid) end}
    end)
  end

  defp peer(:json, options, settings) do
    codec = Json.codec()

    several(:json, settings, fn ->
      {pid, os_pid} = PortPeer.start(python(options), "json", codec)

      echo = fn value ->
        %{"data" => reply} = GenServer.call(pid, {"echo", %{data: value}}, :infinity)
        reply
      end

      {os_pid, echo, fn -> GenServer.stop(pid) end}
    end)
  end

  defp peer(:erlport, options, settings) do
    start = Function.capture(:python, :start, 1)
    call = Function.capture(:python, :call, 4)
    stop = Function.capture(:python, :stop, 1)
    options = [python: to_charlist(python(options)), python_path: to_charlist(__DIR__)]

    several(:erlport, settings, fn ->
      {:ok, pid} = start.(options)
      os_pid = call.(pid, :os, :getpid, [])
      {os_pid, fn value -> call.(pid, :cost_peers, :echo, [value]) end, fn -> stop.(pid) end}
    end)
  end

  defp several(name, settings, start) do
    size = Keyword.get(settings, :size, 1)
    {os_pids, echoes, stops} = unzip3(for _ <- 1..size, do: start.())

    %{
      name: name,
      os_pids: os_pids,
      echo: in_turn(List.to_tuple(echoes), size),
      stop: fn -> Enum.each(stops, & &1.()) end
    }
  end

  defp in_turn({echo}, 1), do: echo

  defp in_turn(echoes, size) do
    fn value ->
      turn = Process.get(:bench_turn) || :erlang.phash2(self(), size)
      Process.put(:bench_turn, rem(turn + 1, size))
      elem(echoes, rem(turn, size)).(value)
    end
  end

  defp unzip3(list) do
    {for({a, _, _} <- list, do: a), for({_, b, _} <- list, do: b), for({_, _, c} <- list, do: c)}
  end

  @doc "The Python of all peers, the one that a pool would use."
  def python(options) do
    venv = Path.expand(".venv/bin/python")

    cond do
      options[:python] -> System.find_executable(options[:python]) || options[:python]
      File.exists?(venv) -> venv
      true -> System.find_executable("python3")
    end
  end
end

defmodule Snakepit.Bench.Cost.PortPeer do
  @moduledoc false
  # A process that owns a Port, as one writes it by hand. Replies come in the order of the calls.
  use GenServer

  @program Path.join(__DIR__, "cost_peers.py")

  def start(python, mode, codec) do
    {:ok, pid} = GenServer.start_link(__MODULE__, {python, mode, codec})
    {pid, GenServer.call(pid, :os_pid)}
  end

  @impl true
  def init({python, mode, codec}) do
    port = Port.open({:spawn_executable, python}, [:binary, packet: 4, args: [@program, mode]])
    {:ok, %{port: port, codec: codec, id: 0, calls: %{}, queue: :queue.new()}}
  end

  @impl true
  def handle_call(:os_pid, _from, state) do
    {:os_pid, os_pid} = Port.info(state.port, :os_pid)
    {:reply, os_pid, state}
  end

  def handle_call(data, from, %{codec: nil} = state) do
    Port.command(state.port, data)
    {:noreply, %{state | queue: :queue.in(from, state.queue)}}
  end

  def handle_call({command, args}, from, %{codec: {_, encode, _}, id: id} = state) do
    Port.command(state.port, encode.(%{id: id, command: command, args: args}))
    {:noreply, %{state | id: id + 1, calls: Map.put(state.calls, id, from)}}
  end

  @impl true
  def handle_info({_port, {:data, data}}, %{codec: nil} = state) do
    {{:value, from}, queue} = :queue.out(state.queue)
    GenServer.reply(from, data)
    {:noreply, %{state | queue: queue}}
  end

  def handle_info({_port, {:data, data}}, %{codec: {_, _, decode}} = state) do
    %{"id" => id, "ok" => result} = decode.(data)
    {from, calls} = Map.pop!(state.calls, id)
    GenServer.reply(from, result)
    {:noreply, %{state | calls: calls}}
  end
end
