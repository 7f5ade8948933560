defmodule Snakepit.Pool.OSProcess do
  @moduledoc false
  # A worker's process of the operating system: what both kinds of worker do with it. A port starts it
  # as the leader of a process group, which what it starts belongs to. The port's program is the
  # launcher of `native/snakepit_launcher`, which becomes the worker's.

  alias Snakepit.Adapter
  alias Snakepit.Native
  alias Snakepit.Pool.{Output, Pipe}
  alias Snakepit.Telemetry

  # How many threads numerical libraries start: OpenMP, the BLAS libraries, NumExpr, Rayon, Polars.
  @thread_variables ~w(OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS BLIS_NUM_THREADS
                       VECLIB_MAXIMUM_THREADS NUMEXPR_NUM_THREADS RAYON_NUM_THREADS
                       POLARS_MAX_THREADS)

  @signals %{
    1 => "SIGHUP",
    2 => "SIGINT",
    3 => "SIGQUIT",
    4 => "SIGILL",
    6 => "SIGABRT",
    7 => "SIGBUS",
    8 => "SIGFPE",
    9 => "SIGKILL; the kernel's out-of-memory killer?",
    11 => "SIGSEGV",
    13 => "SIGPIPE",
    14 => "SIGALRM",
    15 => "SIGTERM",
    24 => "SIGXCPU"
  }

  # `messages` is of one whose standard output carries the protocol: how its owner hears of it, its native
  # side, and what the process has to open.
  defstruct [:id, :pool, :port, :os_pid, :born, :started, :output, :messages]

  @doc """
  Starts it, and logs what it prints. The caller gets

    * `{port, {:exit_status, status}}`
    * what `Snakepit.Pool.Output.open/4` tells of its output
    * with `:messages`, the largest size of one, in place of what it prints to its standard output:
      `{ref, {:message, binary}}` each, for which `handled/1` is to be called; `{ref, :closed}` at the end,
      and `{ref, {:too_large, size}}` for one that is larger

  `env` goes before all other variables. `:token` is that of the line in which it announces itself. With
  `held: true` what it prints is logged once it is ready.
  """
  def start(worker, env, options) do
    with :ok <- check_root(worker.options.root),
         {:ok, {executable, args, adapter_env, input}} <-
           Adapter.command(worker.options.adapter, worker),
         variables = worker.options |> env() |> Map.merge(adapter_env) |> Map.merge(Map.new(env)),
         pool = worker.options.name,
         {:ok, output} <- Output.open(pool, worker.id, options[:token], options[:held]),
         {:ok, messages} <- open_messages(options[:messages]) do
      process = %__MODULE__{
        id: worker.id,
        pool: pool,
        started: System.monotonic_time(),
        output: output,
        messages: messages
      }

      launch(
        process,
        [request(executable, args, variables) | List.wrap(input)],
        worker.options.root
      )
    end
  end

  @doc "Tells that it serves, that it was killed, that it has ended."
  def ready(process) do
    opened(process)
    Output.release(process.output)
    tell(process, :ready, %{duration: age(process)})
  end

  def killed(process, why),
    do: tell(process, :killed, %{system_time: System.system_time()}, %{why: why})

  def stopped(process, why), do: tell(process, :stopped, %{duration: age(process)}, %{why: why})

  @doc "Asks it to end."
  def terminate(process), do: signal(process, false)

  @doc "Ends it and what it has started."
  def kill(process), do: signal(process, true)

  @doc "It has ended: what it has started ends with it, and its output comes to its end."
  def exited(process) do
    kill(process)
    opened(process)
    if process.messages, do: Native.messages_finish(process.messages.native)
    Output.finish(process.output)
  end

  @doc "Whether a status says that it was sent SIGTERM, and was not ready to act on that."
  def terminated?(status), do: status == 128 + 15

  @doc """
  What an exit status says. A port tells signals, of which there are 64, as a shell does: a process that
  exits with such a status by itself cannot be told from one that was killed.
  """
  def status_text(status) when status in 129..192 do
    signal = status - 128
    "it was killed by #{Map.get(@signals, signal, "signal #{signal}")}"
  end

  def status_text(status), do: "it exited with status #{status}"

  defp open_messages(nil), do: {:ok, nil}

  defp open_messages(limit) do
    ref = make_ref()

    with {:ok, native, path} <- Pipe.open(&Native.messages_open(ref, limit, &1)),
         do: {:ok, %{ref: ref, native: native, path: path}}
  end

  defp opened(process), do: process |> paths() |> Enum.each(&Pipe.opened/1)

  # Of its standard output, and its standard error.
  defp paths(%{messages: nil, output: output}), do: [output.path, output.path]
  defp paths(%{messages: messages, output: output}), do: [messages.path, output.path]

  defp launch(process, input, root) do
    launcher = :filename.join(:code.priv_dir(:snakepit), ~c"native/snakepit_launcher")
    # The calls in hand are a bound already; a port that is full would hold up its owner.
    limits = [busy_limits_port: :disabled, busy_limits_msgq: :disabled]
    options = [:binary, :exit_status, :hide, cd: root, packet: 4, args: paths(process)] ++ limits
    port = Port.open({:spawn_executable, launcher}, options)
    # One that has ended at once has no number any more, and tells how it ended all the same.
    os_pid = with {:os_pid, os_pid} <- Port.info(port, :os_pid), do: os_pid
    born = os_pid && Native.process_started(os_pid)
    process = %{process | port: port, os_pid: os_pid, born: born}
    Enum.each(input, &write(process, &1))
    tell(process, :started, %{system_time: System.system_time()})
    {:ok, process}
  rescue
    error in [ErlangError, ArgumentError] ->
      exited(process)
      {:error, "the system cannot start a process: #{reason(error)}"}
  end

  defp check_root(root) do
    if File.dir?(root),
      do: :ok,
      else: {:error, "its directory #{root} does not exist (:root, see guides/configuration.md)"}
  end

  @doc "One of its messages was handled: there is room for another one."
  def handled(process), do: Native.messages_handled(process.messages.native)

  @doc "Writes a message to its standard input."
  def write(process, message) do
    Port.command(process.port, message)
  rescue
    # A port that is closed has told so, or is about to.
    ArgumentError -> false
  end

  defp reason(%ErlangError{original: :enoent}) do
    case File.cwd() do
      {:ok, _path} -> "the launcher is missing; run `mix compile` to build it"
      {:error, _} -> "the BEAM's current directory was removed; change to another by File.cd/1"
    end
  end

  defp reason(%ErlangError{original: reason}) when is_atom(reason),
    do: "#{:file.format_error(reason)} (#{reason})"

  defp reason(error), do: Exception.message(error)

  # As the launcher reads it. `Snakepit.Adapter.command/2` and `Snakepit.Config` let no NUL come here.
  defp request(executable, args, variables) do
    variables =
      Enum.map(variables, fn
        {name, nil} -> [?u, name, 0]
        {name, value} -> [?s, name, ?=, value, 0]
      end)

    [[?x, executable, 0], Enum.map(args, &[?a, &1, 0]) | variables]
  end

  defp signal(%{os_pid: nil}, _kill?), do: false
  defp signal(process, kill?), do: Native.signal_group(process.os_pid, process.born, kill?)

  defp age(process), do: System.monotonic_time() - process.started

  defp tell(process, event, measurements, metadata \\ %{}) do
    named = %{pool: process.pool, worker_id: process.id, os_pid: process.os_pid}
    Telemetry.worker(event, measurements, Map.merge(named, metadata))
  end

  defp env(%{thread_limit: nil, env: env}), do: Map.new(env)

  defp env(%{thread_limit: limit, env: env}) do
    @thread_variables |> Map.new(&{&1, to_string(limit)}) |> Map.merge(Map.new(env))
  end
end
