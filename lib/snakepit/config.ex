defmodule Snakepit.Config do
  @moduledoc false
  # The single schema of a pool's options.

  alias Snakepit.Config.{Cores, Eject, Env, Hidden, Options, Paths, Token, Type}
  alias Snakepit.Error

  # Default modules are written as atoms, so that the schema depends on none of them.
  #
  # With `only:` an option is for pools of that kind: those that start processes, or those of remote endpoints.
  #
  # With `flag: true` an option is also passed to Python workers as a command-line flag. The
  # options that the native library uses are fields of a struct in `nifs/pool.rs`.
  @pool [
    name: [
      type: :name,
      default: :"Elixir.Snakepit.Pool",
      doc: "an atom, by which calls name the pool"
    ],
    size: [
      only: :processes,
      type: {:positive, 10_000},
      default: quote(do: System.schedulers_online()),
      doc: "the number of workers"
    ],
    adapter: [
      only: :processes,
      type: :adapter,
      default: :"Elixir.Snakepit.Adapters.GRPCPython",
      doc: "a module that implements `Snakepit.Adapter`"
    ],
    adapter_args: [
      only: :processes,
      type: :keyword,
      default: [],
      doc:
        "for `Snakepit.Adapters.GRPCPython`: `class:`, the \"module:Class\" of the commands, `paths:`, the directories to import from, and `init:`, the keyword arguments of the class"
    ],
    python: [
      only: :processes,
      type: :path,
      default: nil,
      doc:
        "the Python executable; by default `.venv/bin/python` if it exists, otherwise `python3`"
    ],
    root: [
      only: :processes,
      type: :string,
      default: nil,
      doc:
        "the directory from which relative paths start and in which workers run; by default that of the Mix project, or without Mix the current directory when the pool is first started"
    ],
    server: [
      only: :processes,
      type: {:one_of, [:native, :grpcio]},
      default: nil,
      flag: true,
      doc:
        "`:native`, the worker's server in Rust, or `:grpcio`; by default the native server, or the grpcio server if that does not load"
    ],
    env: [
      only: :processes,
      type: :env,
      default: [],
      doc:
        "environment variables for the workers, a map of names to strings; `nil` unsets one that they would inherit. Or a function that takes a worker's slot, 0 for the first, and returns such a map, or `{module, function, arguments}`, which gets the slot as its first argument"
    ],
    cpu_affinity: [
      only: :processes,
      type: :cores,
      default: nil,
      doc:
        "the cores on which workers may run, a list for each slot: `[[0, 1], [2, 3]]`; further slots begin with the first list again (Linux)"
    ],
    nice: [
      only: :processes,
      type: :nice,
      default: nil,
      doc: "the priority of the workers, from -20 to 19; a higher number is a lower priority"
    ],
    memory_limit: [
      only: :processes,
      type: :memory,
      default: nil,
      doc:
        "how much memory a worker may map, in bytes (`RLIMIT_AS`): beyond it, allocations in the worker fail"
    ],
    fallback_adapter: [
      only: :processes,
      type: :adapter,
      default: nil,
      doc: "the adapter to use if the workers of `:adapter` cannot use gRPC"
    ],
    thread_limit: [
      only: :processes,
      type: {:positive, 1024},
      default: nil,
      doc:
        "how many threads a worker's numerical libraries may use: sets `OMP_NUM_THREADS` and related variables, unless `:env` has them"
    ],
    max_requests: [
      only: :processes,
      type: :count_limit,
      default: :infinity,
      doc: "after how many calls to replace a worker"
    ],
    max_age: [
      only: :processes,
      type: :timeout,
      default: :infinity,
      doc: "how long after it was ready to replace a worker, in ms"
    ],
    max_memory: [
      only: :processes,
      type: :memory_limit,
      default: :infinity,
      doc:
        "with how much resident memory to replace a worker, in bytes; it is killed if it uses more than twice as much"
    ],
    max_concurrency: [
      type: {:positive, 100_000},
      default: 1,
      flag: true,
      doc: "how many commands a worker runs at once"
    ],
    max_queue: [
      type: {:count, 10_000_000},
      default: 1000,
      doc: "how many calls may wait for a worker"
    ],
    pipeline_budget: [
      type: {:count, 60_000_000},
      default: 500,
      doc:
        "how much work, in µs, may be sent ahead to a busy worker, so that short calls never leave it idle; 0 for none"
    ],
    queue_timeout: [
      type: :timeout,
      default: 5_000,
      doc: "how long a call may wait for a worker, in ms"
    ],
    timeout: [
      type: :timeout,
      default: 30_000,
      doc: "how long a call may take, including its wait, in ms"
    ],
    retry: [
      type: :retries,
      default: quote(do: %{}),
      doc:
        "which commands to call again when a call has failed, and when: `%{\"fetch\" => [on: [:worker_crashed], max: 3]}`, see [Retries](reliability.md#retries)"
    ],
    max_sessions: [
      type: {:positive, 100_000_000},
      default: 10_000,
      flag: true,
      doc: "how many sessions to keep; beyond that the least recently used one is removed"
    ],
    session_ttl: [
      type: :timeout,
      default: 3_600_000,
      flag: true,
      doc: "how long to keep a session that no call uses, in ms"
    ],
    demand: [
      type: Options.demand(),
      default: 256,
      doc: "how many chunks of a stream may be in transit to the consumer"
    ],
    tools: [
      type: :tools,
      default: nil,
      doc:
        "the functions that the commands of all calls may ask, a keyword list or map of names and functions of one argument; those of a call count before them, see `Snakepit.execute/3`"
    ],
    tool_timeout: [
      type: :timeout,
      default: :infinity,
      doc: "how long a tool may take to answer, in ms"
    ],
    max_asks: [
      type: Options.max_asks(),
      default: 8,
      doc: "how many tools of a call may run at once"
    ],
    max_message_size: [
      type: :bytes,
      default: 67_108_864,
      flag: true,
      doc: "the maximum size of a request, a result or a chunk, in bytes"
    ],
    frames: [
      only: :processes,
      type: {:one_of, [:lists, :arrow]},
      default: :lists,
      flag: true,
      doc:
        "how pandas and polars frames and Arrow tables in results arrive: `:lists`, as maps of lists, or `:arrow`, each as a `Snakepit.Arrow`"
    ],
    unencodable: [
      only: :processes,
      type: {:one_of, [:error, :marker]},
      default: :error,
      flag: true,
      doc:
        "what happens if a value in a result cannot be sent: `:error`, or `:marker` to replace it by a map with its type"
    ],
    log_level: [
      only: :processes,
      type: {:one_of, [:debug, :info, :warning, :error]},
      default: :info,
      flag: true,
      doc:
        "the lowest level of Python's log records that reach Logger: `:debug`, `:info`, `:warning` or `:error`; for installed libraries it is `:warning`, unless their loggers are given a level"
    ],
    transport: [
      only: :processes,
      type: {:one_of, [:unix, :tcp]},
      default: :unix,
      doc: "`:unix`, or `:tcp` on 127.0.0.1 with a secret per worker"
    ],
    base_port: [
      only: :processes,
      type: :port,
      default: 0,
      doc: "with `:tcp`, the first port to try; 0 means any free port"
    ],
    port_range: [
      only: :processes,
      type: :ports,
      default: 100,
      doc: "with `:tcp`, how many ports to try from there on"
    ],
    reload: [
      only: :processes,
      type: {:one_of, [true, false]},
      default: false,
      doc:
        "for development: whether to replace the workers, one after another, when a Python file under `paths:` changes"
    ],
    startup_timeout: [
      only: :processes,
      type: :millis,
      default: 30_000,
      doc: "how long a worker may take to become ready, in ms"
    ],
    await_ready: [
      type: :await,
      default: false,
      doc:
        "whether the pool's start waits until every worker is ready, and fails if one does not start; or how long it waits, in ms"
    ],
    shutdown_timeout: [
      type: :millis,
      default: 5_000,
      flag: true,
      doc:
        "how long calls may continue when the pool stops or their worker gets SIGTERM, in ms; then they are cancelled and have `:kill_grace`; after that the hooks `session_ended` and `close` have the same time"
    ],
    kill_grace: [
      type: :millis,
      default: 2_000,
      flag: true,
      doc:
        "how long a cancelled call that has begun may continue before its worker is killed, in ms"
    ],
    health_interval: [
      type: :timeout,
      default: 10_000,
      doc: "how often to check whether a worker is alive, in ms, or `:infinity` for never"
    ],
    health_misses: [
      type: {:positive, 1_000_000},
      default: 6,
      doc:
        "after how many consecutive intervals without an answer to replace a worker; a command that holds Python's global lock in C code keeps the grpcio server and workers over stdin and stdout from answering"
    ],
    restart_backoff: [
      only: :processes,
      type: :range,
      default: {100, 10_000},
      doc:
        "the first and the longest wait before the next attempt, in ms, if a worker does not start or ends before it has answered a call"
    ],
    endpoints: [
      only: :endpoints,
      type: :endpoints,
      default: nil,
      doc:
        "the addresses of servers that run already, for a remote pool: `[\"tcp:10.0.0.7:50051\", ...]`, see [Beyond one machine](beyond_one_machine.md); or how to find them, `{:dns, \"models.internal\", 50_051}`, `{:srv, \"_grpc._tcp.models.internal\"}`, or a module of the behaviour `Snakepit.Endpoints`. The pool starts no processes, and takes none of the options for them"
    ],
    tls: [
      only: :endpoints,
      type: :tls,
      default: nil,
      doc:
        "with `:endpoints`, to connect by TLS: `true`, by the authorities of the system, or a list of `:cacertfile`, `:certfile` and `:keyfile`, paths of files in PEM form, and `:server_name`, if the certificates have another name than the address"
    ],
    token: [
      only: :endpoints,
      type: :token,
      default: nil,
      doc:
        "with `:endpoints`, the token that the servers want (`--token-file`): a string, or `{module, function, arguments}`, which is called at each connect"
    ],
    metadata: [
      only: :endpoints,
      type: :metadata,
      default: quote(do: %{}),
      doc:
        "with `:endpoints`, metadata of every RPC, for balancers and proxies, and of every call, for `context.metadata`"
    ],
    keepalive: [
      only: :endpoints,
      type: :keepalive,
      default: [interval: 20_000, timeout: 10_000],
      doc:
        "with `:endpoints`: a server from which nothing has come for the `:interval`, in ms, while calls run is asked whether it is there; without an answer within the `:timeout` the connection is lost, and its calls return `:worker_crashed`. `false` for never"
    ],
    calls: [
      only: :endpoints,
      type: {:one_of, [true, false]},
      default: true,
      doc:
        "with `:endpoints`, `false` behind a balancer that distributes RPCs: each call is then an RPC of its own, and one that the balancer resets may have run"
    ],
    affinity: [
      only: :endpoints,
      type: Options.affinity(),
      default: :strict,
      doc:
        "with `:endpoints`, the `:affinity` of calls in sessions that have none themselves. With `:server` the pool does not choose the endpoint of a session: its id is in the metadata `session_id` of each call, for balancers that keep sessions to servers"
    ],
    connect_timeout: [
      only: :endpoints,
      type: :millis,
      default: 5_000,
      doc:
        "with `:endpoints`, how long a connection may take to be made, in ms, and how long calls wait for an endpoint whose connection was lost"
    ],
    reconnect_backoff: [
      only: :endpoints,
      type: :range,
      default: {100, 10_000},
      doc:
        "with `:endpoints`, the first and the longest wait before the next attempt to connect, in ms"
    ],
    eject: [
      only: :endpoints,
      type: :eject,
      default: Eject.defaults(),
      doc:
        "with `:endpoints`, when an endpoint gets no calls for a while: once so many calls in a row have failed by its fault, `:failures`, or `:infinity` for never; if it does not answer its health checks; and if a cancelled call continued on it past `:kill_grace`. `:for` is how long, in ms, and `:at_most` which part of the endpoints may be out at the same time"
    ]
  ]

  @doc "Checks a pool's options and adds the defaults."
  @spec pool(keyword) :: {:ok, map} | {:error, Error.t()}
  def pool(options) do
    with :ok <- Options.check(options, types()),
         :ok <- check_only(options) do
      options = Map.new([{:root, Paths.root()} | options])
      options = Map.merge(defaults(), options)
      options = %{options | adapter_args: Hidden.wrap_init(options.adapter_args)}
      options = %{options | root: Paths.root(options.root), env: Env.new(options.env)}
      options = remote(options)

      with :ok <- Cores.check(options.cpu_affinity),
           :ok <- check_slots(options, 0..(options.size - 1)),
           do: {:ok, options}
    end
  end

  # The pool starts its workers, or others start them: each kind has options of its own.
  defp check_only(options) do
    kind = if options[:endpoints], do: :endpoints, else: :processes

    Enum.find_value(options, :ok, fn {key, _value} ->
      if @pool[key][:only] not in [nil, kind],
        do: {:error, %Error{reason: :invalid_options, message: only(kind, key)}}
    end)
  end

  defp only(:endpoints, key) do
    "the option #{inspect(key)} is for workers that the pool starts, and :endpoints names servers that run already: " <>
      "leave out one of the two"
  end

  defp only(:processes, key) do
    "the option #{inspect(key)} is for servers that run already: name them by the option :endpoints, or leave it out"
  end

  defp remote(%{endpoints: nil} = options), do: options

  defp remote(%{endpoints: endpoints, eject: eject} = options),
    do: %{
      options
      | adapter: nil,
        size: if(is_list(endpoints), do: length(endpoints), else: 1),
        eject: Eject.new(eject),
        token: Token.new(options.token),
        keepalive: keepalive(options.keepalive)
    }

  defp keepalive(false), do: nil
  defp keepalive(times), do: Keyword.merge(@pool[:keepalive][:default], times)

  @doc "Whether an option is only for remote pools."
  @spec for_endpoints?(atom) :: boolean
  def for_endpoints?(option), do: @pool[option][:only] == :endpoints

  @doc "Removes the options of a remote pool."
  @spec of_processes(map) :: map
  def of_processes(options),
    do: Map.reject(options, fn {option, _value} -> for_endpoints?(option) end)

  @doc "Checks what depends on the slots of workers."
  @spec check_slots(map, Range.t()) :: :ok | {:error, Error.t()}
  def check_slots(%{env: env}, slots) do
    Enum.find_value(slots, :ok, fn slot ->
      with {:error, message} <- Env.of_slot(env, slot),
           do: {:error, %Error{reason: :invalid_options, message: message}},
           else: (_valid -> nil)
    end)
  end

  @doc "Returns the type of each option of a pool."
  @spec types() :: %{atom => Type.t()}
  def types, do: for({key, row} <- @pool, into: %{}, do: {key, row[:type]})

  @doc "Returns the options that are command-line flags of a Python worker, with their types."
  @spec flags() :: [{atom, Type.t()}]
  def flags, do: for({key, row} <- @pool, row[:flag], do: {key, row[:type]})

  @doc "Returns the pool's options as a table, for the documentation."
  def table do
    rows =
      for {key, row} <- @pool do
        "| `#{inspect(key)}` | `#{Macro.to_string(row[:default])}` | #{row[:doc]} |\n"
      end

    "| option | default | what it is |\n|---|---|---|\n#{rows}"
  end

  defp defaults do
    %{unquote_splicing(for {key, row} <- @pool, do: {key, row[:default]})}
  end
end
