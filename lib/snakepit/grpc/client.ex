defmodule Snakepit.GRPC.Client do
  @moduledoc """
  Calls over the native client: through a pool's workers, or over a channel of your own to any
  server of `proto/snakepit.proto`.

      {:ok, channel} = Snakepit.GRPC.Client.connect("unix:/tmp/server.sock")
      {:ok, %{"status" => "ok"}} = Snakepit.GRPC.Client.execute(channel, "ping")

  If a channel loses its connection, or the server closes it, the next call connects again.

  Every function returns `{:error, %Snakepit.Error{}}` on failure. To call the workers of a pool, use
  `Snakepit`.
  """

  alias Snakepit.{Call, ChunkStream, Codec, Error, Native, Telemetry, Tracing}
  alias Snakepit.Config.{Options, Paths, Token}
  alias Snakepit.GRPC.Channel
  alias Snakepit.TwoWay.Tools

  @typedoc "A connection to a server, or the native side of a pool. It ends when no process references it."
  @opaque target :: Channel.target()

  @timeout 30_000
  @max_message_size 67_108_864
  @demand 256
  # The longest wait of a receive, in ms.
  @longest 4_294_967_295

  @keepalive [interval: 20_000, timeout: 10_000]

  @connect_options %{
    secret: :string,
    max_message_size: :bytes,
    timeout: {:positive, @longest},
    calls: {:one_of, [true, false]},
    keepalive: :keepalive,
    tls: :tls,
    token: :token,
    metadata: :metadata
  }
  # Anything else is an answer, also from a server without that RPC.
  @refused [:unauthenticated, :grpc_unavailable, :worker_crashed, :timeout]

  @call_options Options.call()
  @stream_options Options.stream()
  @defaults Options.defaults(timeout: @timeout, demand: @demand)

  @doc """
  Connects to `"unix:/path"` or `"tcp:host:port"`.

  Options:

    * `:secret` - sent as `x-snakepit-secret`
    * `:max_message_size` - bytes, for messages in both directions, default #{@max_message_size}
    * `:timeout` - ms for connecting, default #{@timeout}
    * `:calls` - with `false`, each unary call is an RPC of its own. Otherwise unary calls share one RPC, if the server
      implements it: behind a balancer that distributes RPCs, all of them have one server. With `false`, an RPC that
      the balancer resets is `:worker_crashed`: HAProxy refuses RPCs whose server has died in the middle of them.
    * `:keepalive` - `[interval: ms, timeout: ms]`: a server from which nothing has come for the interval while calls run
      is asked whether it is there (a PING of HTTP/2). If it does not answer within the timeout, the connection is
      lost, and its calls return `:worker_crashed`. The default is #{inspect(@keepalive)} for `tcp:`,
      and `false`, never, for `unix:`. After a server has refused pings that come so often, the next connection waits twice as long.
    * `:tls`, `:token` and `:metadata` - those of a remote pool, see [TLS and tokens](beyond_one_machine.md#tls-and-tokens).
      The function of a token is asked and the files are read here, in at most `:timeout`, and count for this channel also when it
      connects again.

  With `:tls` or `:token` the server is asked for its health: one that refuses the certificate or the token is an error of this
  function.
  """
  @doc since: "0.1.0"
  @spec connect(String.t(), keyword) :: {:ok, target} | {:error, Error.t()}
  def connect(address, options \\ []) do
    with :ok <- Options.check(options, @connect_options),
         :ok <- check_address(address) do
      Tracing.available?()
      defaults = [max_message_size: @max_message_size, timeout: @timeout]
      options = Keyword.merge(defaults, options)

      keepalive =
        keepalive(Keyword.get(options, :keepalive, String.starts_with?(address, "tcp:")))

      with {:ok, credentials} <- credentials(address, options),
           options = options |> Keyword.put(:keepalive, keepalive) |> Keyword.merge(credentials),
           {:ok, channel} <- Channel.connect(address, options),
           :ok <- check_accepted(channel, options),
           do: {:ok, channel}
    end
  end

  defp credentials(address, options) do
    given = %{
      token: Token.new(options[:token]),
      tls: options[:tls],
      metadata: options[:metadata] || [],
      root: Paths.root()
    }

    ref = Channel.start_credentials(given, nil, options[:timeout])

    receive do
      {^ref, {:ok, credentials}} ->
        {:ok, credentials}

      {^ref, {:error, why}} ->
        message = "no connection to #{address}: #{why}"
        {:error, %Error{reason: :grpc_unavailable, message: message}}
    end
  end

  # A server refuses a token, and with TLS 1.3 a certificate, once the connection has been made.
  defp check_accepted(channel, options) do
    if options[:token] || options[:tls] do
      case Channel.health(channel, "", options[:timeout]) do
        {:error, %Error{reason: reason} = error} when reason in @refused -> {:error, error}
        _answered -> :ok
      end
    else
      :ok
    end
  end

  defp keepalive(false), do: nil
  defp keepalive(true), do: @keepalive
  defp keepalive(times), do: Keyword.merge(@keepalive, times)

  defp check_address(address) do
    if is_binary(address) and String.valid?(address) do
      :ok
    else
      message =
        "expected an address, \"unix:/path\" or \"tcp:host:port\", got: #{inspect(address)}"

      {:error, %Error{reason: :invalid_args, message: message}}
    end
  end

  @doc """
  Executes a command and waits for its result, a map with string keys.

  Options: `:timeout` (ms or `:infinity`, default #{@timeout}), `:session_id`, `:request_id`,
  `:traceparent` (by default that of the current span), `:metadata`, `:on_progress`, `:tools`, `:tool_timeout` and
  `:max_asks` (as for `Snakepit.execute/3`), and for a pool `:queue_timeout`, `:priority` and `:affinity`.
  """
  @doc since: "0.1.0"
  @spec execute(target, String.t(), map | keyword, keyword) :: {:ok, map} | {:error, Error.t()}
  def execute(target, command, args \\ %{}, options \\ []) do
    with :ok <- Options.check(options, @call_options) do
      options = complete(options, command)

      case Channel.run(target, command, args, options) do
        {:ok, result, _meta} -> {:ok, result}
        {:error, error, _meta} -> {:error, error}
      end
    end
  end

  @doc """
  Executes a command and calls `callback` with each chunk, in the calling process.

  A chunk is a map with string keys, which has `"is_final"` besides the values. The callback's
  value is ignored, except `:halt`, which cancels the rest. Options are those of `execute/4` except
  `:on_progress`, and:

    * `:demand` - how many chunks may be in transit to the callback, default #{@demand}
    * `:first_chunk_timeout` - ms or `:infinity` (default), from the call on
    * `:idle_timeout` - ms or `:infinity` (default) for each further chunk, while one is wanted
  """
  @doc since: "0.1.0"
  @spec execute_stream(target, String.t(), map | keyword, (map -> any), keyword) ::
          :ok | {:error, Error.t()}
  def execute_stream(target, command, args, callback, options \\ []) do
    start = &open_stream(target, &1, command, args, options, true)
    with {:ok, _final} <- ChunkStream.each(start, callback), do: :ok
  end

  @doc """
  Returns a lazy `Stream` of the chunks. The command starts when the stream is enumerated, is
  cancelled when the enumeration halts, and raises `Snakepit.Error`. Options are those of
  `execute_stream/5`.
  """
  @doc since: "0.1.0"
  @spec stream(target, String.t(), map | keyword, keyword) :: Enumerable.t()
  def stream(target, command, args \\ %{}, options \\ []) do
    ChunkStream.lazy(&open_stream(target, &1, command, args, options, true))
  end

  @doc """
  Starts a command whose chunks this process receives as the messages of `Snakepit.Call`.

  Options are those of `execute_stream/5`; here `:demand` is the number of chunks requested
  initially, and `ask/2` requests more.
  """
  @doc since: "0.1.0"
  @spec start_stream(target, String.t(), map | keyword, keyword) ::
          {:ok, Call.t()} | {:error, Error.t()}
  def start_stream(target, command, args \\ %{}, options \\ []) do
    open_stream(target, make_ref(), command, args, options, false)
  end

  defp open_stream(target, ref, command, args, options, bounded) do
    with :ok <- Options.check(options, @stream_options) do
      options = complete(options, command)
      recipient = %{ref: ref, pool: nil, bounded: bounded, observer: nil}
      Channel.open_stream(target, command, args, options, recipient)
    end
  end

  defp complete(options, command) do
    options
    |> Options.complete(@defaults)
    |> Tracing.with_context()
    |> Tools.bind(%{call_options: @defaults, telemetry: Telemetry.available?()}, nil, command)
  end

  @doc "Requests `chunks` more chunks of a stream."
  @doc since: "0.1.0"
  @spec ask(Call.t(), pos_integer) :: :ok
  defdelegate ask(call, chunks), to: ChunkStream

  @doc """
  Ends a stream early. Afterwards no message of it is in the mailbox of the calling process, which
  must be the one that started it. Does nothing if the stream has ended.
  """
  @doc since: "0.1.0"
  @spec cancel(Call.t()) :: :ok
  defdelegate cancel(call), to: ChunkStream

  @doc "Asks a server for its health: a map with `\"healthy\"`, `\"uptime_ms\"` and its counts."
  @doc since: "0.1.0"
  @spec health(target, keyword) :: {:ok, map} | {:error, Error.t()}
  def health(channel, options \\ []) do
    with :ok <- Options.check(options, %{timeout: {:positive, @longest}, worker_id: :string}) do
      timeout = Keyword.get(options, :timeout, @timeout)
      Channel.health(channel, Keyword.get(options, :worker_id, ""), timeout)
    end
  end

  @doc "Asks a server for its type, version, commands, statistics and system."
  @doc since: "0.1.0"
  @spec get_info(target, keyword) :: {:ok, map} | {:error, Error.t()}
  def get_info(channel, options \\ []) do
    with :ok <- Options.check(options, %{timeout: {:positive, @longest}}),
         do: Channel.info(channel, Keyword.get(options, :timeout, @timeout))
  end

  @doc """
  Encodes arguments for a peer without Snakepit's additions: a binary unchanged, anything else as
  JSON.

      iex> Snakepit.GRPC.Client.encode_args(%{a: 1, b: "test", c: [1, 2, 3]})
      %{"a" => "1", "b" => "test", "c" => "[1,2,3]"}

  Raises `Snakepit.Error` for a value that cannot be sent.
  """
  @doc since: "0.1.0"
  @spec encode_args(map | keyword) :: %{String.t() => binary}
  def encode_args(args),
    do: args |> Codec.encode(&Native.encode_args/1) |> Codec.returned() |> bang()

  @doc """
  Decodes what such a peer sent: JSON if it parses, otherwise a binary.

      iex> Snakepit.GRPC.Client.decode_result(%{"a" => "1", "b" => "test", "c" => "[1,2,3]"})
      %{"a" => 1, "b" => "test", "c" => [1, 2, 3]}
  """
  @doc since: "0.1.0"
  @spec decode_result(%{String.t() => binary}) :: map
  def decode_result(result) do
    wanted = "a map of strings to binaries"
    bang(Codec.native(fn -> Native.decode_result(result) end, wanted))
  end

  defp bang({:ok, value}), do: value
  defp bang({:error, failure}), do: raise(Codec.error(failure))
end
