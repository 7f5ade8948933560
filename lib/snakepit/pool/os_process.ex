defmodule Snakepit.Pool.OSProcess do
  @moduledoc false
  # A worker's process of the operating system: what both kinds of worker do with it. The BEAM makes
  # it the leader of a process group, which what it starts belongs to.

  require Logger

  alias Snakepit.Adapter
  alias Snakepit.GRPC.Native
  alias Snakepit.Telemetry

  # The end of its output that an error shows.
  @tail_lines 30

  # How many threads numerical libraries start: OpenMP, the BLAS libraries, NumExpr, Rayon, Polars.
  @thread_variables ~w(OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS BLIS_NUM_THREADS
                       VECLIB_MAXIMUM_THREADS NUMEXPR_NUM_THREADS RAYON_NUM_THREADS
                       POLARS_MAX_THREADS)

  defstruct [:id, :pool, :port, :os_pid, :started, tail: []]

  @doc "Starts it. `wrap` may change the command line; `env` goes before all other variables."
  def start(worker, env, port_options, wrap \\ & &1) do
    with {:ok, command_line} <- Adapter.command(worker.options.adapter, worker) do
      {executable, args, adapter_env} = wrap.(command_line)
      env = env(worker.options) |> Map.merge(Map.new(adapter_env ++ env))
      env = for {name, value} <- env, do: {to_charlist(name), to_charlist(value)}
      port_options = [:binary, :exit_status, :hide, args: args, env: env] ++ port_options
      port = Port.open({:spawn_executable, executable}, port_options)
      {:os_pid, os_pid} = Port.info(port, :os_pid)

      process = %__MODULE__{
        id: worker.id,
        pool: worker.options.name,
        port: port,
        os_pid: os_pid,
        started: System.monotonic_time()
      }

      tell(process, :started, %{system_time: System.system_time()})
      {:ok, process}
    end
  end

  @doc "Tells that it serves, that it was killed, that it has ended."
  def ready(process), do: tell(process, :ready, %{duration: age(process)})

  def killed(process, why),
    do: tell(process, :killed, %{system_time: System.system_time()}, %{why: why})

  def stopped(process, why), do: tell(process, :stopped, %{duration: age(process)}, %{why: why})

  @doc "Asks it to end."
  def terminate(process), do: Native.signal_group(process.os_pid, false)

  @doc "Ends it and what it has started."
  def kill(process), do: Native.signal_group(process.os_pid, true)

  @doc "Logs a line that it has printed."
  def printed(process, ""), do: process

  def printed(process, line) do
    {level, text} = level(line)
    Logger.log(level, "[#{process.id}] #{text}")
    %{process | tail: Enum.take([text | process.tail], @tail_lines)}
  end

  @doc "What is to be told of one that did not start."
  def start_error(%__MODULE__{tail: [_ | _] = tail} = process, message) do
    output = tail |> Enum.reverse() |> Enum.join("\n")
    "worker #{process.id} did not start: #{message}; its last output:\n#{output}"
  end

  def start_error(worker, message), do: "worker #{worker.id} did not start: #{message}"

  @doc "How it ended."
  def exit_text(status) when status > 128, do: "it was killed by signal #{status - 128}"
  def exit_text(status), do: "it exited with status #{status}"

  defp age(process), do: System.monotonic_time() - process.started

  defp tell(process, event, measurements, metadata \\ %{}) do
    named = %{pool: process.pool, worker_id: process.id, os_pid: process.os_pid}
    Telemetry.worker(event, measurements, Map.merge(named, metadata))
  end

  defp env(%{thread_limit: nil, env: env}), do: Map.new(env)

  defp env(%{thread_limit: limit, env: env}) do
    @thread_variables |> Map.new(&{&1, to_string(limit)}) |> Map.merge(Map.new(env))
  end

  # The level prefixes of sd-daemon(3), as Python's logging sends them.
  defp level("<3>" <> text), do: {:error, text}
  defp level("<4>" <> text), do: {:warning, text}
  defp level("<7>" <> text), do: {:debug, text}
  defp level(<<"<", digit, ">", text::binary>>) when digit in ?0..?7, do: {:info, text}
  defp level(text), do: {:info, text}
end
