defmodule Snakepit.Config do
  @moduledoc false
  # The one schema of a pool's options, and the one reader of the application's environment.

  alias Snakepit.Config.{Env, Environment, Hidden, Paths}
  alias Snakepit.Error

  @demand {:positive, 10_000_000}

  @pool [
    name: {:name, Snakepit.Pool, "an atom; calls name the pool by it"},
    size: {{:positive, 10_000}, quote(do: System.schedulers_online()), "how many workers"},
    adapter:
      {:adapter, Snakepit.Adapters.GRPCPython, "a module that implements `Snakepit.Adapter`"},
    adapter_args:
      {:keyword, [],
       "for `Snakepit.Adapters.GRPCPython`: `class:`, the \"module:Class\" of the commands, `paths:`, the directories to import from, and `init:`, the keyword arguments of the class"},
    python:
      {:path, nil,
       "the Python executable; by default `.venv/bin/python` where there is one, else `python3`"},
    root:
      {:string, nil,
       "the directory that relative paths start from and in which workers run; by default that of the Mix project, without Mix the current one when the pool is first started"},
    server:
      {:server, nil,
       "`:native`, the worker's server in Rust, or `:grpcio`; by default the native one, or grpcio's where that does not load"},
    env:
      {:env, [],
       "environment variables for the workers, names to strings; `nil` unsets one that they would inherit"},
    fallback_adapter:
      {:adapter, nil, "the adapter of the workers where those of `:adapter` cannot have gRPC"},
    thread_limit:
      {{:positive, 1024}, nil,
       "how many threads a worker's numerical libraries may use: `OMP_NUM_THREADS` and its kin, unless `:env` has them"},
    max_concurrency: {{:positive, 100_000}, 1, "how many commands a worker runs at once"},
    max_queue: {{:count, 10_000_000}, 1000, "how many calls may wait for a worker"},
    pipeline_budget:
      {{:count, 60_000_000}, 500,
       "how much work, in µs, a worker may be sent ahead of what it does, so that short calls never leave it idle; 0 for none"},
    queue_timeout: {:timeout, 5_000, "how long a call may wait for a worker, in ms"},
    timeout: {:timeout, 30_000, "how long a call may take, its wait included, in ms"},
    max_sessions:
      {{:positive, 100_000_000}, 10_000,
       "how many sessions are kept; beyond it the least recently used goes"},
    session_ttl: {:timeout, 3_600_000, "how long a session is kept that no call uses, in ms"},
    demand: {@demand, 256, "how many chunks of a stream may be on their way to the consumer"},
    max_message_size: {:bytes, 67_108_864, "bytes of a request, a result or a chunk"},
    frames:
      {:frames, :lists,
       "how frames of pandas and polars and Arrow tables in results arrive: `:lists`, as maps of lists, or `:arrow`, each as a `Snakepit.Arrow`"},
    unencodable:
      {:unencodable, :error,
       "what becomes of a value in a result that cannot be sent: `:error`, or `:marker` for a map with its type in its place"},
    log_level:
      {:log_level, :info,
       "from which level on what Python logs reaches Logger: `:debug`, `:info`, `:warning` or `:error`; installed libraries' records come from `:warning` on, unless their loggers are given a level"},
    transport: {:transport, :unix, "`:unix`, or `:tcp` on 127.0.0.1 with a secret per worker"},
    base_port: {:port, 0, "with `:tcp`, the first port to try; 0 is any free one"},
    port_range: {:ports, 100, "with `:tcp`, how many ports to try from there on"},
    reload:
      {:boolean, false,
       "for development: whether the workers are replaced, one after another, when a Python file under `paths:` changes"},
    startup_timeout: {:millis, 30_000, "how long a worker may take to be ready, in ms"},
    await_ready:
      {:await, false,
       "whether the pool's start waits until every worker is ready, and fails where one does not start; or for how long, in ms"},
    shutdown_timeout:
      {:millis, 5_000,
       "how long calls may go on when the pool stops or their worker gets SIGTERM, in ms; then they are cancelled, with `:kill_grace`; the hooks `session_ended` and `close` have as long after that"},
    kill_grace:
      {:millis, 2_000, "how long a cancelled call may go on before its worker is killed, in ms"},
    health_interval:
      {:timeout, 10_000,
       "how often a worker is asked whether it is alive, in ms, or `:infinity` for never"},
    health_misses:
      {{:positive, 1_000_000}, 6,
       "after how many intervals in a row without an answer a worker is replaced; a command that holds Python's global lock in C code keeps the grpcio server from answering"},
    restart_backoff:
      {:range, {100, 10_000},
       "the first and the longest wait before a worker is tried again that does not start, or that ends before it has answered a call, in ms"}
  ]

  # What a timer of Erlang takes, in ms.
  @max 4_294_967_295
  # What grpcio takes.
  @max_bytes 2_147_483_647
  # Of times that are added up before they are waited for.
  @max_millis 1_000_000_000
  @max_threads 1024
  @session_id_bytes 1024
  # gRPC servers refuse 8 KiB, in which what HTTP and gRPC add counts too.
  @metadata_bytes 4096
  @reserved ~w(connection content-length content-type host keep-alive proxy-connection te
               transfer-encoding upgrade user-agent x-request-id x-snakepit-secret)

  @wanted %{
    name: "an atom",
    pool: "the name of a pool, an atom: the option :name that it was started with",
    adapter: "a module that implements Snakepit.Adapter",
    millis: "a number of milliseconds above 0, at most #{@max_millis}",
    bytes: "a number of bytes above 0, at most #{@max_bytes}",
    ports: "a number of ports, 1 to 65535",
    threads: "a number of threads, 1 to #{@max_threads}",
    port: "a port, 0 to 65535",
    keyword: "a keyword list",
    section: "a map or keyword list",
    string: "a string",
    path: "a path, or {:my_app, path} for one within an application",
    session_id: "a string of 1 to #{@session_id_bytes} bytes without NUL",
    affinity: ":strict or :prefer",
    request_id: "a string of 1 to 256 printable ASCII characters",
    traceparent: "a W3C trace context, \"00-<32 hex digits>-<16 hex digits>-<2 hex digits>\"",
    metadata:
      "a map or list of names (a-z, 0-9, \"_\", \"-\", \".\"; none of gRPC's or HTTP's own) and values of " <>
        "printable ASCII, at most #{@metadata_bytes} bytes in all",
    boolean: "true or false",
    await: "true, false, or a number of milliseconds above 0, at most #{@max_millis}",
    timeout: "a number of milliseconds above 0, at most #{@max}, or :infinity",
    server: ":native or :grpcio",
    transport: ":unix or :tcp",
    frames: ":lists or :arrow",
    unencodable: ":error or :marker",
    log_level: ":debug, :info, :warning or :error",
    range: "a pair {first, longest} of milliseconds above 0, at most #{@max_millis}"
  }

  @doc "Threads of the native runtime; read when the library is loaded."
  @spec runtime_threads() :: {:ok, pos_integer} | {:error, Error.t()}
  def runtime_threads do
    # They share the cores with the schedulers, which do half of the work.
    default = max(div(System.schedulers_online(), 2), 1)
    threads = Application.get_env(:snakepit, :runtime_threads, default)

    case check([runtime_threads: threads], %{runtime_threads: :threads}) do
      :ok -> {:ok, threads}
      {:error, error} -> {:error, %{error | message: "config :snakepit: #{error.message}"}}
    end
  end

  @doc "The options of the pool that the application starts, or nil."
  @spec default_pool() :: {:ok, keyword | nil} | {:error, Error.t()}
  def default_pool do
    :snakepit
    |> Application.get_all_env()
    |> Keyword.drop([:runtime_threads, :included_applications])
    |> Environment.pool()
  end

  @doc "A pool's options, complete and checked."
  @spec pool(keyword) :: {:ok, map} | {:error, Error.t()}
  def pool(options) do
    with :ok <- check(options, types()) do
      options = Map.new([{:root, Paths.root()} | options])
      options = Map.merge(defaults(), options)
      options = %{options | adapter_args: Hidden.wrap_init(options.adapter_args)}
      {:ok, %{options | root: Paths.root(options.root), env: Env.new(options.env)}}
    end
  end

  @doc "What a type takes, for messages."
  def wanted({:positive, max}), do: "an integer above 0, at most #{max}"
  def wanted({:count, max}), do: "an integer of 0 or more, at most #{max}"
  def wanted(type), do: Map.fetch!(@wanted, type)

  @doc "The type of each of a pool's options."
  def types, do: for({key, {type, _default, _doc}} <- @pool, into: %{}, do: {key, type})

  @doc "What every call takes, and what a stream takes beside it."
  def call_options do
    %{
      timeout: :timeout,
      queue_timeout: :timeout,
      session_id: :session_id,
      affinity: :affinity,
      request_id: :request_id,
      traceparent: :traceparent,
      metadata: :metadata
    }
  end

  def stream_options do
    Map.merge(call_options(), %{
      demand: @demand,
      first_chunk_timeout: :timeout,
      idle_timeout: :timeout
    })
  end

  @doc "Checks options against a map of key to type."
  @spec check(keyword, map) :: :ok | {:error, Error.t()}
  def check([], _schema), do: :ok

  def check([{key, value} | rest], schema) when is_map_key(schema, key) do
    case problem(Map.fetch!(schema, key), value) do
      nil -> check(rest, schema)
      problem -> invalid("the option #{inspect(key)} #{problem}")
    end
  end

  def check([{key, _value} | _rest], schema) when is_atom(key) do
    known = schema |> Map.keys() |> Enum.sort() |> Enum.map_join(", ", &inspect/1)
    invalid("there is no option #{inspect(key)}; there are #{known}")
  end

  # Without the values of whatever it is, which may be secrets.
  def check([{key, _value} | _rest], _schema),
    do: invalid("options are a keyword list, got the key #{inspect(key)}")

  def check(other, _schema) when is_map(other),
    do: invalid("options are a keyword list, got a map")

  def check(other, _schema), do: invalid("options are a keyword list, got: #{shown(other)}")

  @doc "The pool's options as a table, for the documentation."
  def table do
    rows =
      for {key, {_type, default, doc}} <- @pool do
        "| `#{inspect(key)}` | `#{Macro.to_string(default)}` | #{doc} |\n"
      end

    "| option | default | what it is |\n|---|---|---|\n#{rows}"
  end

  defp defaults do
    %{unquote_splicing(for {key, {_type, default, _doc}} <- @pool, do: {key, default})}
  end

  defp problem(:env, value) do
    with problem when problem != nil <- Env.problem(value), do: "has #{problem}"
  end

  # Its values may be secrets.
  defp problem(:keyword, value),
    do: unless(Keyword.keyword?(value), do: "wants #{@wanted.keyword}, got something else")

  defp problem(type, value) do
    unless valid?(type, value), do: "wants #{wanted(type)}, got: #{shown(value)}"
  end

  defp valid?(:name, value), do: is_atom(value) and value not in [nil, true, false]
  defp valid?(:pool, value), do: valid?(:name, value)
  defp valid?(:adapter, value), do: Snakepit.Adapter.adapter?(value)
  defp valid?({:positive, max}, value), do: is_integer(value) and value in 1..max
  defp valid?({:count, max}, value), do: is_integer(value) and value in 0..max
  defp valid?(:millis, value), do: is_integer(value) and value in 1..@max_millis
  defp valid?(:bytes, value), do: is_integer(value) and value in 1..@max_bytes
  defp valid?(:port, value), do: is_integer(value) and value in 0..65_535
  defp valid?(:ports, value), do: is_integer(value) and value in 1..65_535
  defp valid?(:threads, value), do: is_integer(value) and value in 1..@max_threads

  defp valid?(:section, value),
    do: Keyword.keyword?(value) or (is_map(value) and not is_struct(value))

  defp valid?(:string, value), do: is_binary(value) and String.valid?(value)

  defp valid?(:path, {app, path}),
    do: is_atom(app) and valid?(:string, path) and Path.type(path) == :relative

  defp valid?(:path, path), do: valid?(:string, path)
  defp valid?(:affinity, value), do: value in [:strict, :prefer]

  defp valid?(:session_id, value) do
    is_binary(value) and byte_size(value) in 1..@session_id_bytes and String.valid?(value) and
      not String.contains?(value, <<0>>)
  end

  defp valid?(:request_id, value),
    do: is_binary(value) and byte_size(value) in 1..256 and printable?(value)

  defp valid?(:traceparent, value) do
    is_binary(value) and value =~ ~r/\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\z/
  end

  defp valid?(:metadata, value) do
    ((is_map(value) and not is_struct(value)) or proper_list?(value)) and
      Enum.all?(value, &(match?({_, _}, &1) and name?(elem(&1, 0)) and text?(elem(&1, 1)))) and
      value |> Enum.map(fn {k, v} -> byte_size(to_string(k)) + byte_size(v) end) |> Enum.sum() <=
        @metadata_bytes
  end

  defp valid?(:timeout, value), do: value == :infinity or valid?({:positive, @max}, value)
  defp valid?(:server, value), do: value in [:native, :grpcio]
  defp valid?(:transport, value), do: value in [:unix, :tcp]
  defp valid?(:frames, value), do: value in [:lists, :arrow]
  defp valid?(:unencodable, value), do: value in [:error, :marker]
  defp valid?(:log_level, value), do: value in [:debug, :info, :warning, :error]

  defp valid?(:boolean, value), do: is_boolean(value)
  defp valid?(:await, value), do: is_boolean(value) or valid?(:millis, value)

  defp valid?(:range, value) do
    with {first, longest} <- value,
         true <- valid?(:millis, first) and valid?(:millis, longest),
         do: first <= longest,
         else: (_ -> false)
  end

  defp proper_list?(value), do: is_list(value) and not List.improper?(value)

  defp name?(name) when is_atom(name) and name not in [nil, true, false],
    do: name?(Atom.to_string(name))

  defp name?(name) do
    is_binary(name) and name =~ ~r/\A[a-z0-9_.-]+\z/ and name not in @reserved and
      not String.starts_with?(name, "grpc-") and not String.ends_with?(name, "-bin")
  end

  defp text?(value), do: is_binary(value) and printable?(value)

  defp printable?(value), do: for(<<c <- value>>, c not in 0x20..0x7E, do: c) == []

  @doc "A value for a message: an id of a megabyte must not make one of that."
  def shown(value) when is_binary(value) and byte_size(value) > 200,
    do: "#{byte_size(value)} bytes that begin with #{inspect(binary_part(value, 0, 20))}"

  def shown(value), do: inspect(value)

  defp invalid(message), do: {:error, %Error{reason: :invalid_options, message: message}}
end
