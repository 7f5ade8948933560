defmodule Snakepit.Test.Endpoints do
  @moduledoc false
  # Servers of the test commands that no pool starts: `python -m snakepit_bridge` as a service manager runs it, again
  # when it has ended. They end with the test, and with the BEAM.
  use GenServer

  import ExUnit.Callbacks

  alias Snakepit.Test.Pools

  @flags [:server, :max_concurrency, :max_message_size]
  @seconds [:shutdown_timeout, :kill_grace]

  @doc """
  Starts servers, waits until they listen, and returns their addresses. Options: `:size`, `:args`, further
  arguments, and options of a pool that are flags of its workers.
  """
  def start!(options) do
    addresses = for _ <- 1..Keyword.get(options, :size, 1), do: address()
    for address <- addresses, do: start_at!(address, options)
    addresses
  end

  @doc "As `start!/1`, for one server at this address. Returns its process."
  def start_at!(address, options \\ []) do
    server = start_supervised!({__MODULE__, {address, options}}, id: address)
    :ok = GenServer.call(server, :await_listening, 2 * Pools.patience())
    server
  end

  @doc "An address at which nothing listens, on an IP address of this run of the tests alone."
  def address do
    pid = String.to_integer(System.pid())
    host = "127.#{rem(div(pid, 250), 250) + 1}.#{rem(pid, 250) + 1}.1"
    "tcp:#{host}:#{20_000 + rem(System.unique_integer([:positive]), 40_000)}"
  end

  @doc "Starts servers, and a pool of them, which is ready. The options are those of both."
  def start_pool!(options) do
    {of_servers, of_pool} = Keyword.split(options, [:size, :server, :args])
    flags = Keyword.take(of_pool, @flags ++ @seconds)
    endpoints = start!(of_servers ++ Keyword.merge([kill_grace: Pools.patience()], flags))
    name = start_remote_pool!([endpoints: endpoints] ++ of_pool)
    :ok = Pools.await_ready(name)
    name
  end

  @doc "Starts a pool of these `:endpoints` without waiting for them."
  def start_remote_pool!(options) do
    name = :"remote#{System.pid()}_#{System.unique_integer([:positive])}"
    patience = Pools.patience()

    patient = [
      name: name,
      timeout: patience,
      queue_timeout: patience,
      kill_grace: patience,
      connect_timeout: patience,
      reconnect_backoff: {10, 200}
    ]

    options = Keyword.merge(patient, options)
    start_supervised!({Snakepit.Pool, options})
    options[:name]
  end

  @doc "The OS process of the server at that address, once it listens."
  def os_pid(server), do: GenServer.call(server, :os_pid, 2 * Pools.patience())

  @doc "Ends a server with a signal; it is not started again before `resume/1`."
  def end!(server, signal), do: GenServer.call(server, {:end, signal}, 2 * Pools.patience())

  @doc "Starts a server again that `end!/2` has ended, and waits until it listens."
  def resume(server) do
    :ok = GenServer.call(server, :resume)
    GenServer.call(server, :await_listening, 2 * Pools.patience())
  end

  def start_link({_address, _options} = given), do: GenServer.start_link(__MODULE__, given)

  @impl true
  def init({address, options}) do
    state = %{address: address, options: options, output: "", waiting: [], ending: nil, port: nil}
    {:ok, start(state)}
  end

  @impl true
  def handle_call(:await_listening, from, state),
    do: {:noreply, answer(%{state | waiting: [{from, :ok} | state.waiting]})}

  def handle_call(:os_pid, from, %{port: port} = state) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {:noreply, answer(%{state | waiting: [{from, os_pid} | state.waiting]})}
  end

  def handle_call({:end, signal}, from, %{port: port} = state) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    {_, 0} = Pools.signal(signal, os_pid)
    {:noreply, %{state | ending: from}}
  end

  def handle_call(:resume, _from, state), do: {:reply, :ok, start(%{state | ending: nil})}

  @impl true
  def handle_info({port, {:data, data}}, %{port: port, output: output} = state) do
    output = if listening?(output), do: output, else: output <> data
    {:noreply, answer(%{state | output: output})}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port, ending: nil} = state) do
    # It cannot start: its output says why.
    refused = if status in 1..127 and not listening?(state.output), do: state.waiting, else: []
    for {from, _reply} <- refused, do: GenServer.reply(from, {:error, state.output})
    {:noreply, start(%{state | waiting: state.waiting -- refused})}
  end

  def handle_info({port, {:exit_status, status}}, %{port: port, ending: from} = state) do
    GenServer.reply(from, status)
    {:noreply, %{state | port: nil}}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp start(%{address: address, options: options} = state) do
    python = System.get_env("SNAKEPIT_TEST_PYTHON") || Path.expand(".venv/bin/python")
    script = Path.expand("test/support/python/served.py")
    class = ["--adapter", "trouble:Trouble", "--import-path", "test/support/python"]
    args = [script, "--listen", address] ++ class ++ flags(options) ++ (options[:args] || [])
    env = [{~c"PYTHONPATH", String.to_charlist(Path.expand("python"))}]
    how = [:binary, :exit_status, :stderr_to_stdout, args: args, env: env]
    %{state | port: Port.open({:spawn_executable, python}, how), output: ""}
  end

  defp flags(options) do
    for {name, value} <- Keyword.take(options, @flags ++ @seconds),
        value != nil,
        text <- [
          flag(name),
          if(name in @seconds, do: to_string(value / 1000), else: to_string(value))
        ],
        do: text
  end

  defp flag(name), do: "--" <> String.replace(to_string(name), "_", "-")

  defp answer(%{waiting: waiting, output: output} = state) do
    if listening?(output) do
      for {from, reply} <- waiting, do: GenServer.reply(from, reply)
      %{state | waiting: []}
    else
      state
    end
  end

  defp listening?(output), do: output =~ "listening on "
end
