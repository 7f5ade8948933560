defmodule Snakepit.Faults.Server do
  @moduledoc false
  # A server that no pool has started: `python -m snakepit_bridge` with the suite's commands. It ends with this
  # BEAM.
  use GenServer

  alias Snakepit.Faults.{OS, Trial}

  @patience 120_000

  @doc """
  Starts it and waits until it listens. Options: `:address`, or `:host`, the one to run on;
  `:server`, `:max_concurrency` and `:args`, further arguments.
  """
  def start!(options \\ []) do
    {:ok, server} = GenServer.start_link(__MODULE__, options)
    listening!(server)
    server
  end

  @doc "Its address, as a pool takes it."
  def address(server), do: GenServer.call(server, :address)

  def os_pid(server), do: GenServer.call(server, :os_pid)

  @doc "Ends it by a signal, and returns its exit status, of a signal 128 and its number."
  def kill!(server, signal), do: GenServer.call(server, {:kill, signal}, @patience)

  @doc "Ends it and its process, if it runs, without a word."
  def stop!(server) do
    if GenServer.call(server, :running?), do: kill!(server, "KILL")
    GenServer.stop(server)
  end

  @doc "Waits until a pool of servers has no call left, and ends it and them."
  def finish(servers, {pool, _supervisor} = started) do
    Trial.wait("#{inspect(pool)} has no call left", fn ->
      match?({:ok, %{in_flight: 0, queued: 0}}, Snakepit.stats(pool))
    end)

    Trial.stop_pools([started])
    Enum.each(servers, &stop!/1)
  end

  @doc "Starts it again, at the same address, and waits until it listens."
  def start_again!(server) do
    :ok = GenServer.call(server, :start)
    listening!(server)
  end

  @doc "A pool of servers, which is ready: its name and supervisor."
  def start_pool!(servers, options \\ []) do
    {name, supervisor} = start_pool_unready!(Enum.map(servers, &address/1), options)
    Trial.ready!(name)
    {name, supervisor}
  end

  def start_pool_unready!(endpoints, options) do
    name = :"faults#{System.pid()}_#{System.unique_integer([:positive])}"
    defaults = [name: name, endpoints: endpoints, max_concurrency: 16]
    backoff = [connect_timeout: 2_000, reconnect_backoff: {20, 500}, eject: [for: 500]]
    pool = {Snakepit.Pool, Keyword.merge(defaults ++ backoff, options)}
    {:ok, supervisor} = Supervisor.start_link([pool], strategy: :one_for_one)
    {name, supervisor}
  end

  @doc "A TCP address of this machine alone, at which nothing listens."
  def free_address do
    pid = OS.own_pid()
    host = "127.#{rem(div(pid, 250), 250) + 1}.#{rem(pid, 250) + 1}.1"
    "tcp:#{host}:#{20_000 + rem(System.unique_integer([:positive]), 40_000)}"
  end

  defp listening!(server) do
    case GenServer.call(server, :await_listening, @patience) do
      :ok -> :ok
      {:ended, output} -> throw({:gave_up, "a server ended before it listened: #{output}"})
    end
  end

  @impl true
  def init(options) do
    host = options[:host]

    address = options[:address] || if(host, do: "tcp:#{host.ip}:50051", else: free_address())

    state = %{address: address, host: host, options: options}
    {:ok, start(Map.merge(state, %{port: nil, output: "", waiting: nil, killer: nil}))}
  end

  @impl true
  def handle_call(:address, _from, state), do: {:reply, state.address, state}

  def handle_call(:os_pid, _from, %{port: port} = state) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {:reply, os_pid, state}
  end

  def handle_call(:running?, _from, state), do: {:reply, state.port != nil, state}
  def handle_call(:start, _from, %{port: nil} = state), do: {:reply, :ok, start(state)}
  def handle_call(:await_listening, from, state), do: {:noreply, tell(%{state | waiting: from})}

  def handle_call({:kill, signal}, from, %{port: port} = state) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    OS.signal(os_pid, signal)
    {:noreply, %{state | killer: from}}
  end

  @impl true
  def handle_info({port, {:data, data}}, %{port: port, output: output} = state) do
    # What a server says while it starts is its state; later output is the trial's log.
    if listening?(output) do
      IO.write(data)
      {:noreply, state}
    else
      {:noreply, tell(%{state | output: output <> data})}
    end
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    if state.waiting, do: GenServer.reply(state.waiting, {:ended, state.output})
    if state.killer, do: GenServer.reply(state.killer, status)
    {:noreply, %{state | port: nil, waiting: nil, killer: nil}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp tell(%{waiting: from, output: output} = state) do
    if from && listening?(output) do
      GenServer.reply(from, :ok)
      %{state | waiting: nil}
    else
      state
    end
  end

  defp listening?(output), do: output =~ "listening on "

  defp start(%{address: address, host: host, options: options} = state) do
    python = Path.expand(".venv/bin/python")
    folders = for folder <- ~w(faults/python test/support/python), do: ["--import-path", folder]
    # It ends when its standard input does.
    script = Path.expand("test/support/python/served.py")

    args =
      [script, "--adapter", "fault_commands:Faults", "--listen", address] ++
        ["--max-concurrency", to_string(options[:max_concurrency] || 64)] ++
        ["--server", to_string(options[:server] || :native), "--shutdown-timeout", "60"] ++
        List.flatten(folders) ++ (options[:args] || if(host, do: ["--insecure"], else: []))

    # `ip` replaces itself by the program: the process is that of the server.
    [program | args] =
      if host, do: ["ip", "netns", "exec", host.name, python | args], else: [python | args]

    port =
      Port.open({:spawn_executable, System.find_executable(program)}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        args: args,
        env: [{~c"PYTHONPATH", to_charlist(Path.expand("python"))}]
      ])

    %{state | port: port, output: ""}
  end
end
