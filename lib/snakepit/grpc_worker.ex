defmodule Snakepit.GRPCWorker do
  @moduledoc false
  # One worker: its operating-system process, its channel, and its place in the pool. No request
  # passes through here. It lives as long as its process; the pool starts the next one.
  use GenServer, restart: :temporary

  import Snakepit.Pool.Membership

  alias Snakepit.{Codec, Native}
  alias Snakepit.GRPC.Channel
  alias Snakepit.Pool.{HealthCheck, OSProcess, RuntimeDir}
  alias Snakepit.Telemetry

  # EX_UNAVAILABLE of sysexits.h, with which a worker says that it can have no server.
  @no_server 69

  # How long another connection to its server may take, in ms.
  @reconnect_timeout 5_000
  # A server that takes no calls on connections that it has just accepted serves nobody, in ms.
  @shortest_connection 100

  # How long the status of a process may be on its way once its connection is gone, and the end of its
  # output once it is gone itself, in ms.
  @exit_grace 1_000

  # It has secrets in it.
  @derive {Inspect, only: [:id, :key, :why]}
  defstruct [
    :id,
    :held,
    :pool,
    :manager,
    :options,
    :runtime_dir,
    :token,
    :secret,
    :process,
    :address,
    :awaited,
    :connected,
    :closed,
    :channel,
    :journal,
    :key,
    :timer,
    :check,
    :leaving,
    :ended,
    asked: %{},
    tail: [],
    why: nil,
    no_grpc: false,
    terminated: false
  ]

  @doc "Options: `:id`, `:held`, `:pool` (native), `:manager`, `:runtime_dir`, `:options` (the pool's)."
  def start_link(worker), do: GenServer.start_link(__MODULE__, worker)

  @impl true
  def init(worker) do
    Process.flag(:trap_exit, true)
    state = struct!(__MODULE__, worker)
    # Only its user can reach a worker's Unix socket.
    secret = if state.options.transport == :tcp, do: random()
    {:ok, %{state | token: random(), secret: secret}}
  end

  @impl true
  def handle_continue(:start, %{options: options} = state) do
    secret = if state.secret, do: [{"SNAKEPIT_SECRET", state.secret}], else: []
    {journal, journal_env} = start_journal(options)
    private_env = [{"SNAKEPIT_READY_TOKEN", state.token}] ++ secret ++ journal_env

    with {:ok, listen} <- listen(state),
         worker = %{id: state.id, listen: listen, options: options},
         env = [{"SNAKEPIT_LISTEN", listen} | private_env],
         how = [token: state.token, held: state.held],
         {:ok, process} <- OSProcess.start(worker, env, how) do
      timer = Process.send_after(self(), :startup_timeout, options.startup_timeout)
      {:noreply, %{state | process: process, timer: timer, journal: journal}}
    else
      {:error, message} -> stop_failed(message, state)
    end
  end

  @impl true
  def handle_call({:describe, _what, _timeout}, _from, %{key: nil} = state),
    do: {:reply, description(nil, state), state}

  def handle_call({:describe, what, timeout}, from, state) do
    {:ok, ref} = Channel.start_info(state.channel, timeout, what == :commands)
    {:noreply, %{state | asked: Map.put(state.asked, ref, from)}}
  end

  @impl true
  # The manager watches this process now.
  def handle_info(:start, state), do: {:noreply, state, {:continue, :start}}

  def handle_info({ref, {:announced, "draining"}}, %{process: %{output: %{ref: ref}}} = state),
    do: {:noreply, said_draining(state)}

  def handle_info({ref, {:announced, address}}, %{process: %{output: %{ref: ref}}} = state) do
    {:noreply, if(state.timer, do: connect(address, state), else: state)}
  end

  def handle_info({port, {:exit_status, status}}, %{process: %{port: port}} = state) do
    terminated = OSProcess.terminated?(status)
    state = %{state | no_grpc: status == @no_server, terminated: terminated}
    {:noreply, ended(OSProcess.status_text(status), state)}
  end

  # Its standard input is closed: its status does not come any more.
  def handle_info({:EXIT, port, reason}, %{process: %{port: port}, ended: nil} = state),
    do: {:noreply, ended("its standard input is closed (#{inspect(reason)})", state)}

  def handle_info({ref, {:ended, tail}}, %{process: %{output: %{ref: ref}}} = state) do
    state = %{state | tail: tail}
    if state.ended, do: stop_ended(state), else: {:noreply, state}
  end

  def handle_info(:output_timeout, state), do: stop_ended(state)

  def handle_info({ref, {:ok, channel}}, %{awaited: {:connect, ref}} = state) do
    {:ok, health} = Channel.start_health(channel, state.id, connect_timeout(state))
    connected = System.monotonic_time(:millisecond)
    connection = %{channel: channel, closed: ref, connected: connected}
    {:noreply, Map.merge(%{state | awaited: {:health, health}}, connection)}
  end

  # It starts no call any more.
  def handle_info({ref, _answer}, %{awaited: {:health, ref}, leaving: leaving} = state)
      when leaving != nil,
      do: {:noreply, %{state | awaited: nil}}

  def handle_info({ref, {:ok, %{"healthy" => true}}}, %{awaited: {:health, ref}} = state) do
    state = %{state | awaited: nil}

    cond do
      state.timer -> {:noreply, join(state, state.channel)}
      resume(state, state.channel) -> {:noreply, state}
      true -> {:noreply, lost(state)}
    end
  end

  def handle_info({ref, {:ok, health}}, %{awaited: {:health, ref}} = state) do
    {:noreply, kill("it says that it is not healthy: #{inspect(health)}", state)}
  end

  # It takes no more connections: it is about to end, or has ended.
  def handle_info({ref, {:error, _failure}}, %{awaited: {_step, ref}, timer: nil} = state),
    do: {:noreply, if(state.key, do: drain(%{state | awaited: nil}), else: state)}

  def handle_info({ref, {:error, failure}}, %{awaited: {_step, ref}} = state) do
    {:noreply, kill(Codec.error(failure).message, state)}
  end

  def handle_info(:check_health, %{key: key, leaving: leaving} = state)
      when key == nil or leaving != nil,
      do: {:noreply, state}

  def handle_info(:check_health, state) do
    ask = fn timeout ->
      {:ok, ref} = Channel.start_health(state.channel, state.id, timeout)
      ref
    end

    {:noreply, checked(HealthCheck.tick(state.check, ask), state)}
  end

  def handle_info({ref, {:ok, health}}, %{check: %{pending: ref}} = state) do
    {:noreply, checked(HealthCheck.answered(state.check, health), state)}
  end

  def handle_info({ref, {:error, failure}}, %{check: %{pending: ref}} = state) do
    {:noreply, checked(HealthCheck.failed(state.check, Codec.error(failure).message), state)}
  end

  def handle_info({ref, answer}, %{asked: asked} = state) when is_map_key(asked, ref) do
    {from, asked} = Map.pop!(asked, ref)
    info = with {:ok, info} <- answer, do: info
    GenServer.reply(from, description(if(is_map(info), do: info), state))
    {:noreply, %{state | asked: asked}}
  end

  # A worker that leaves takes the connection away in its own time.
  def handle_info({ref, :closed}, %{closed: ref, leaving: leaving} = state) when leaving != nil,
    do: {:noreply, state}

  # Its connection takes no more calls. A server may mean only that by it: connections get old.
  def handle_info({ref, :closed}, %{closed: ref, key: key} = state) do
    lasted = System.monotonic_time(:millisecond) - state.connected

    if key && Native.pool_pause(state.pool, key) && lasted >= @shortest_connection,
      do: {:noreply, connect(state.address, state)},
      else: {:noreply, lost(state)}
  end

  def handle_info(:connection_lost, %{ended: nil} = state),
    do: {:noreply, kill("its connection was lost", state)}

  # Its successor is ready.
  def handle_info(:retire, state), do: {:noreply, drain(state)}
  def handle_info(:snakepit_drained, state), do: {:noreply, ask_to_exit(state)}

  def handle_info(:drain_timeout, state) do
    Native.worker_ended(state.channel, stopped_text())
    {:noreply, ask_to_exit(state)}
  end

  def handle_info(:exit_timeout, %{ended: nil} = state),
    do: {:noreply, kill("it did not exit after SIGTERM", state)}

  def handle_info(:startup_timeout, state) do
    message = "it was not ready within #{state.options.startup_timeout} ms (:startup_timeout)"
    {:noreply, kill(message, state)}
  end

  def handle_info({:snakepit_kill, why}, state), do: {:noreply, kill_ready(why, state)}

  def handle_info({:snakepit_work_ended, how, micros, command, request_id}, state) do
    Telemetry.call_cancelled(System.convert_time_unit(micros, :microsecond, :native), %{
      how: how,
      command: command,
      request_id: request_id,
      pool: state.options.name,
      worker_id: state.id
    })

    {:noreply, state}
  end

  def handle_info({:EXIT, port, _reason}, state) when is_port(port), do: {:noreply, state}
  def handle_info({:EXIT, _from, reason}, state), do: {:stop, reason, state}
  def handle_info(_late, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{process: nil}), do: :ok

  def terminate(_reason, state) do
    state = stop_serving(state, &handle_info/2)
    # Calls that it has not answered hear it now.
    if state.channel, do: Native.worker_ended(state.channel, state.ended || "it was killed")
    OSProcess.exited_and_logged(state.process)
    OSProcess.stopped(state.process, :shutdown)
    leave(state)
  end

  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)
  def format_status(status), do: without_secrets(status)

  defp listen(%{options: %{transport: :unix} = options} = state) do
    with {:ok, path} <- RuntimeDir.path(state.runtime_dir, options.startup_timeout),
         do: {:ok, "unix:#{path}.sock"}
  end

  defp listen(%{options: %{base_port: first} = options}) do
    last = min(first + options.port_range - 1, 65_535)
    {:ok, "tcp:127.0.0.1:" <> if(first == 0, do: "0", else: "#{first}-#{last}")}
  end

  defp connect(address, %{options: options} = state) do
    secret = if state.secret, do: [secret: state.secret], else: []
    size = options.max_message_size
    timeout = connect_timeout(state)
    connect_options = [max_message_size: size, timeout: timeout, journal: state.journal] ++ secret

    case Channel.start_connect(address, connect_options) do
      {:ok, ref} -> %{state | address: address, awaited: {:connect, ref}}
      {:error, error} -> kill(error.message, state)
    end
  end

  defp connect_timeout(%{timer: nil}), do: @reconnect_timeout
  defp connect_timeout(%{options: options}), do: options.startup_timeout

  # A process that has ended tells how in a moment.
  defp lost(state) do
    Process.send_after(self(), :connection_lost, @exit_grace)
    leave(state)
  end

  # Its process has ended: the end of its output is on its way.
  defp ended(text, state) do
    OSProcess.exited(state.process)
    Process.send_after(self(), :output_timeout, @exit_grace)
    %{leave(state) | ended: text}
  end

  defp stop_ended(state) do
    why = OSProcess.end_text(state)
    if state.timer, do: stop_failed(why, state), else: stop({:exited, why}, state)
  end

  defp stop_failed(message, state) do
    failed = if state.no_grpc, do: :no_grpc, else: start_failure(state)
    stop({failed, OSProcess.start_error(state, message)}, state)
  end

  defp stop({_how, text} = why, state) do
    if state.channel, do: Native.worker_ended(state.channel, text)
    if state.process, do: OSProcess.stopped(state.process, text)
    {:stop, {:shutdown, why}, %{state | process: nil}}
  end

  # Where a worker on this machine notes which calls have started. It is read when it has died.
  defp start_journal(%{transport: :unix}) do
    case Native.start_journal() do
      {journal, path} -> {journal, [{"SNAKEPIT_START_JOURNAL", path}]}
      nil -> {nil, []}
    end
  end

  defp start_journal(_options), do: {nil, []}

  defp random, do: Base.url_encode64(:crypto.strong_rand_bytes(16), padding: false)
end
