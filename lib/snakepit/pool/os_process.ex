defmodule Snakepit.Pool.OSProcess do
  @moduledoc false
  # The OS process of a worker, for both kinds of workers. A port starts it as the leader of a
  # process group, to which the processes that it starts belong. The port runs the launcher of
  # `native/snakepit_launcher`, which then executes the worker's program.

  alias Snakepit.Adapter
  alias Snakepit.Config.{Cores, Env}
  alias Snakepit.Native
  alias Snakepit.Pool.{Output, Pipe}
  alias Snakepit.Telemetry

  # Variables that limit the threads of numerical libraries: OpenMP, the BLAS libraries, NumExpr,
  # Rayon, Polars.
  @thread_variables ~w(OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS BLIS_NUM_THREADS
                       VECLIB_MAXIMUM_THREADS NUMEXPR_NUM_THREADS RAYON_NUM_THREADS
                       POLARS_MAX_THREADS)

  # By itself glibc takes memory for values of some MB from the kernel and returns it, call by call: see
  # `guides/performance.md`. `_process/parent.py` keeps the variable from the worker's children.
  @keep_memory "glibc.malloc.mmap_threshold=#{16 * 1024 * 1024}:" <>
                 "glibc.malloc.trim_threshold=#{32 * 1024 * 1024}"
  # Take a third of the time, and 1.5 MB more in an idle worker.
  @huge_pages ":glibc.malloc.hugetlb=1"
  @huge_pages_above 64 * 1024 * 1024

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

  # How large a message a NIF may copy on an ordinary scheduler, in bytes.
  @large 64 * 1024

  # `messages` is for a process whose standard input and output carry the protocol: the reference of its messages, and
  # the two pipes, each with its native side and with what the process must open.
  defstruct [:id, :pool, :port, :os_pid, :born, :started, :output, :messages]

  @type t :: %__MODULE__{}

  @doc """
  Starts it, and logs its output. The caller receives

    * `{port, {:exit_status, status}}`
    * the messages of `Snakepit.Pool.Output.open/4`
    * with `:messages`, the largest size of a message, instead of its standard output: `{ref,
      {:message, binary}}` for each message, after which `handled/1` must be called; `{ref,
      :closed}` at the end, and `{ref, {:too_large, size}}` for a larger message; `{ref,
      :input_closed}` when it has closed its standard input and `write/2` has found that

  `env` takes precedence over all other variables. `:token` begins the line with which the process
  announces itself. With `held: true` its output is logged only once it is ready.
  """
  def start(worker, env, options) do
    with :ok <- check_root(worker.options.root),
         {:ok, of_slot} <- Env.of_slot(worker.options.env, worker.slot),
         worker = put_in(worker.options.env, of_slot),
         {:ok, {executable, args, adapter_env, input}} <-
           Adapter.command(worker.options.adapter, worker),
         variables = worker |> env() |> Map.merge(adapter_env) |> Map.merge(Map.new(env)),
         pool = worker.options.name,
         {:ok, output} <- Output.open(pool, worker.id, options[:token], options[:held]),
         {:ok, messages} <- open_messages(options[:messages], output) do
      process = %__MODULE__{
        id: worker.id,
        pool: pool,
        started: System.monotonic_time(),
        output: output,
        messages: messages
      }

      request = prefixed([request(executable, args, variables) | limits(worker)])
      launch(process, request, input, worker.options.root)
    end
  end

  @doc "Emits the events that it is ready, was killed, or has stopped."
  def ready(process) do
    opened(process)
    Output.release(process.output)
    emit(process, :ready, %{duration: age(process)})
  end

  def killed(process, why),
    do: emit(process, :killed, %{system_time: System.system_time()}, %{why: why})

  def stopped(process, why), do: emit(process, :stopped, %{duration: age(process)}, %{why: why})

  @doc "Asks it to exit, with SIGTERM."
  def terminate(process), do: signal(process, false)

  @doc "Kills it and the processes that it has started."
  def kill(process), do: signal(process, true)

  @doc "It has exited: kills the processes that it has started, and ends its output."
  def exited(process) do
    kill(process)
    opened(process)

    if messages = process.messages, do: Native.input_finish(messages.input)
    Output.finish(process.output)
  end

  @doc "Whether a status means that it got SIGTERM before it could handle it."
  def terminated?(status), do: status == 128 + 15

  @doc """
  Describes an exit status. A port reports the 64 signals like a shell does: a process that exits
  with such a status on its own cannot be distinguished from a killed one.
  """
  def status_text(status) when status in 129..192 do
    signal = status - 128
    "it was killed by #{Map.get(@signals, signal, "signal #{signal}")}"
  end

  def status_text(status), do: "it exited with status #{status}"

  defp open_messages(nil, _output), do: {:ok, nil}

  defp open_messages(limit, output) do
    ref = make_ref()

    case Pipe.open_all([&Native.messages_open(ref, limit, &1), &Native.input_open(ref, &1)]) do
      {:ok, [{native, path}, {input, input_path}]} ->
        {:ok, %{ref: ref, native: native, path: path, input: input, input_path: input_path}}

      {:error, message} ->
        Pipe.opened(output.path)
        {:error, message}
    end
  end

  # It has opened its ends of the pipes, or never will.
  defp opened(process) do
    process |> paths() |> Enum.each(&Pipe.opened/1)

    if messages = process.messages do
      Native.messages_opened(messages.native)
      Native.input_opened(messages.input)
    end
  end

  # For its standard output, its standard error and, if that is not the port's, its standard input.
  defp paths(%{messages: nil, output: output}), do: [output.path, output.path]

  defp paths(%{messages: messages, output: output}),
    do: [messages.path, output.path, messages.input_path]

  defp launch(process, request, input, root) do
    launcher = :filename.join(:code.priv_dir(:snakepit), ~c"native/snakepit_launcher")
    # A full port would block its owner.
    limits = [busy_limits_port: :disabled, busy_limits_msgq: :disabled]
    options = [:binary, :exit_status, :hide, cd: root, packet: 4, args: paths(process)] ++ limits
    port = Port.open({:spawn_executable, launcher}, options)
    # A process that has exited at once has no pid any more, but its status still arrives.
    os_pid = with {:os_pid, os_pid} <- Port.info(port, :os_pid), do: os_pid
    born = os_pid && Native.process_started(os_pid)
    process = %{process | port: port, os_pid: os_pid, born: born}
    # In one write: a process that is killed between two would leave a closed pipe, and no status.
    write_input(process, request, input)
    emit(process, :started, %{system_time: System.system_time()})
    {:ok, process}
  rescue
    error in [ErlangError, ArgumentError, SystemLimitError] ->
      exited(process)
      {:error, "the system cannot start a process: #{reason(error)}"}
  end

  defp check_root(root) do
    if File.dir?(root),
      do: :ok,
      else: {:error, "its directory #{root} does not exist (:root, see guides/configuration.md)"}
  end

  @doc "One of its messages was handled: another one may be read."
  def handled(process), do: Native.messages_handled(process.messages.native)

  @doc """
  Writes a message to its standard input, or has it written when there is room in the pipe. Returns `:closed` if it does
  not get the message because it has closed its standard input.
  """
  @spec write(t, binary) :: :ok | :closed
  def write(%{messages: %{input: input}}, message) when byte_size(message) > @large,
    do: Native.input_write_large(input, message)

  def write(%{messages: %{input: input}}, message), do: Native.input_write(input, message)

  defp write_input(%{messages: nil} = process, request, input),
    do: command(process.port, if(input, do: [request, prefixed(input)], else: request))

  defp write_input(process, request, input) do
    command(process.port, request)
    if input, do: write(process, input)
  end

  defp command(port, data) do
    Port.command(port, data)
  rescue
    # A closed port has reported that, or is about to.
    ArgumentError -> false
  end

  defp reason(%ErlangError{original: :enoent}) do
    case File.cwd() do
      {:ok, _path} ->
        "the launcher is missing; run `mix deps.compile snakepit --force` to install it"

      {:error, _} ->
        "the BEAM's current directory was removed; change to another by File.cd/1"
    end
  end

  defp reason(%ErlangError{original: reason}) when is_atom(reason),
    do: "#{:file.format_error(reason)} (#{reason})"

  defp reason(%SystemLimitError{}),
    do: "the BEAM has no port left; raise its limit by the option +Q of erl"

  defp reason(error), do: Exception.message(error)

  @doc "Its resident memory in bytes, or nil."
  @spec memory(t) :: non_neg_integer | nil
  def memory(%{os_pid: nil}), do: nil

  def memory(%{os_pid: os_pid, born: nil}) do
    # There is no `/proc`.
    with {kilobytes, 0} <- System.cmd("ps", ["-o", "rss=", "-p", to_string(os_pid)]),
         {kilobytes, _rest} <- kilobytes |> String.trim() |> Integer.parse(),
         do: kilobytes * 1024,
         else: (_gone -> nil)
  rescue
    # There is no `ps` either, as in slim images.
    ErlangError -> nil
  end

  def memory(process), do: Native.process_memory(process.os_pid, process.born)

  # The format that the launcher reads. `Snakepit.Adapter.command/2` and `Snakepit.Config` refuse
  # NUL.
  defp request(executable, args, variables) do
    variables =
      Enum.map(variables, fn
        {name, nil} -> [?u, name, 0]
        {name, value} -> [?s, name, ?=, value, 0]
      end)

    [[?x, executable, 0], Enum.map(args, &[?a, &1, 0]) | variables]
  end

  defp prefixed(part), do: [<<IO.iodata_length(part)::32>>, part]

  defp limits(%{slot: slot, options: options}) do
    cores = options.cpu_affinity |> Cores.of_slot(slot) |> List.wrap()

    [
      Enum.map(cores, &[?c, to_string(&1), 0]),
      if(options.nice, do: [?n, to_string(options.nice), 0], else: []),
      if(options.memory_limit, do: [?m, to_string(options.memory_limit), 0], else: [])
    ]
  end

  defp signal(%{os_pid: nil}, _kill?), do: false
  defp signal(process, kill?), do: Native.signal_group(process.os_pid, process.born, kill?)

  defp age(process), do: System.monotonic_time() - process.started

  defp emit(process, event, measurements, metadata \\ %{}) do
    named = %{pool: process.pool, worker_id: process.id, os_pid: process.os_pid}
    Telemetry.worker(event, measurements, Map.merge(named, metadata))
  end

  defp env(%{slot: slot, options: %{thread_limit: limit, env: env} = options}) do
    limits = if limit, do: Map.new(@thread_variables, &{&1, to_string(limit)}), else: %{}

    limits
    |> Map.merge(allocator(options))
    |> Map.merge(Map.new(env))
    |> Map.put("SNAKEPIT_WORKER_SLOT", to_string(slot))
  end

  defp allocator(%{max_message_size: size}) do
    huge_pages = if size > @huge_pages_above, do: @huge_pages, else: ""

    if System.get_env("GLIBC_TUNABLES"),
      do: %{},
      else: %{"GLIBC_TUNABLES" => @keep_memory <> huge_pages}
  end
end
