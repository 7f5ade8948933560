defmodule Snakepit.GRPC.Client do
  @moduledoc """
  The one gateway to the native client: calls through a pool's workers, or over a channel of one's
  own to any server of `proto/snakepit.proto`.

      {:ok, channel} = Snakepit.GRPC.Client.connect("unix:/tmp/server.sock")
      {:ok, %{"status" => "ok"}} = Snakepit.GRPC.Client.execute(channel, "ping")

  A channel connects again, for the next call, when its connection is lost or the server gives it up.

  Every function returns `{:error, %Snakepit.Error{}}` on failure.
  """

  alias Snakepit.{Call, Config, Error, Structs, Telemetry}
  alias Snakepit.Native

  @typedoc "A connection to a server, or the native side of a pool. It ends when nobody holds it."
  @opaque target :: reference

  @timeout 30_000
  @max_message_size 67_108_864
  @demand 256

  # A stream whose events are taken in this module.
  @taken_here %{pool: nil, bounded: true, observer: nil}

  # How long after its deadline a call's end is waited for, in milliseconds.
  @overdue 1_000
  # What a receive waits at most.
  @longest 4_294_967_295
  @not_owner "a stream belongs to the process that started it: its chunks are messages to that one; " <>
               "go on with it there, or send the chunks on"

  @connect_options %{secret: :string, max_message_size: :bytes, timeout: {:positive, @longest}}
  @max_chunks 4_294_967_295
  @call_options Config.call_options()
  @stream_options Config.stream_options()

  @doc """
  Connects to `"unix:/path"` or `"tcp:host:port"`.

  Options: `:secret` (sent as `x-snakepit-secret`), `:max_message_size` (bytes of what is sent and
  received, default #{@max_message_size}), `:timeout` (ms, default #{@timeout}).
  """
  @spec connect(String.t(), keyword) :: {:ok, target} | {:error, Error.t()}
  def connect(address, options \\ []) do
    with :ok <- Config.check(options, @connect_options),
         :ok <- check_address(address),
         do: answer(connecting(address, options, false))
  end

  @doc false
  # As `connect/2`, but the caller gets `{ref, {:ok, channel} | {:error, failure}}` and, once the
  # connection is lost, `{ref, :closed}`. With `:journal` the server was given that to note starts in.
  def start_connect(address, options), do: request(connecting(address, options, true))

  defp connecting(address, options, watched) do
    options = %{
      address: address,
      secret: options[:secret],
      max_message_size: Keyword.get(options, :max_message_size, @max_message_size),
      timeout: Keyword.get(options, :timeout, @timeout),
      watched: watched,
      journal: options[:journal]
    }

    &Native.connect(&1, options)
  end

  @doc """
  Executes a command and waits for its result, a map with string keys.

  Options: `:timeout` (ms or `:infinity`, default #{@timeout}), `:session_id`, `:request_id`,
  `:traceparent`, `:metadata`, and of a pool `:queue_timeout` and `:affinity`.
  """
  @spec execute(target, String.t(), map | keyword, keyword) :: {:ok, map} | {:error, Error.t()}
  def execute(target, command, args \\ %{}, options \\ []) do
    with :ok <- Config.check(options, @call_options) do
      case run(target, command, args, options) do
        {:ok, result, _meta} -> {:ok, result}
        {:error, error, _meta} -> {:error, error}
      end
    end
  end

  @doc false
  # With options that are checked, and with what the native side says of the call, nil where it never
  # came there: `{request_id, worker_id, queue_us, execution_us}`.
  def run(target, command, args, options) do
    ref = make_ref()

    with {:ok, spec} <- spec(command, args, options),
         {:ok, handle} <- start_call(target, put_elem(spec, 0, ref)) do
      receive do
        {^ref, reply} -> replied(reply, command)
      after
        overdue(options) ->
          case give_up(handle, ref) do
            {:ok, reply} -> replied(reply, command)
            :none -> {:error, overdue_error(command, options), nil}
          end
      end
    else
      {:error, error} -> {:error, error, nil}
    end
  end

  defp replied({:ok, _result, _meta} = reply, _command), do: reply

  defp replied({:error, failure, meta}, command),
    do: {:error, error(failure, command, meta), meta}

  defp replied({:error, failure}, command), do: {:error, error(failure, command), nil}

  @doc false
  # Deadlines are kept by the native library. Should its thread stand still, whoever waits keeps them
  # after this many milliseconds.
  def overdue(options), do: options |> Keyword.get(:timeout, @timeout) |> late()

  defp late(:infinity), do: :infinity
  defp late(timeout), do: min(timeout + @overdue, @longest)

  @doc false
  # Whoever waited past that ends the call: nothing of it comes any more. What has come in the last moment
  # counts.
  def give_up(handle, ref) do
    Native.cancel(handle)

    receive do
      {^ref, reply} -> {:ok, reply}
      {:snakepit, ^ref, event} -> {:ok, event}
    after
      0 -> :none
    end
  end

  @doc false
  def overdue_error(command, options) do
    timeout = Keyword.get(options, :timeout, @timeout)
    overdue_error("the deadline of #{timeout} ms passed", command, options)
  end

  defp overdue_error(what, command, options) do
    %Error{
      reason: :timeout,
      command: command,
      request_id: options[:request_id],
      message:
        "#{what} while the native library's thread stood still: the machine is overloaded, or this is a " <>
          "bug to be reported",
      details: %{queued: false}
    }
  end

  @doc """
  Executes a command and calls `callback` with each chunk, in this process.

  A chunk is a map with string keys, with `"is_final"` beside the values. The callback's value is
  ignored, except `:halt`, which cancels the rest. Options as for `execute/4`, and:

    * `:demand` - how many chunks may be on their way to the callback, default #{@demand}
    * `:first_chunk_timeout` - ms or `:infinity` (default) from the call on
    * `:idle_timeout` - ms or `:infinity` (default) for each further chunk, while one is wanted
  """
  @spec execute_stream(target, String.t(), map | keyword, (map -> any), keyword) ::
          :ok | {:error, Error.t()}
  def execute_stream(target, command, args, callback, options \\ []) do
    each_chunk(&open_stream(target, &1, command, args, options), callback)
  end

  @doc """
  A lazy `Stream` of the chunks. The command starts when the stream is enumerated, is cancelled
  when that halts, and raises `Snakepit.Error`. Options as for `execute_stream/5`.
  """
  @spec stream(target, String.t(), map | keyword, keyword) :: Enumerable.t()
  def stream(target, command, args \\ %{}, options \\ []) do
    stream(&open_stream(target, &1, command, args, options))
  end

  @doc false
  # `start` gets the reference of the stream's messages, and returns the call.
  def stream(start) do
    Stream.resource(
      fn ->
        case first_event(start) do
          {:error, error} -> raise error
          event -> {self(), event}
        end
      end,
      fn
        {owner, next} when owner == self() -> next_chunks(owner, next)
        # The stream goes on in its owner.
        {_owner, _next} -> {:halt, :not_owner}
      end,
      fn
        {:failed, error} -> raise error
        :not_owner -> raise ArgumentError, @not_owner
        :done -> :ok
        {owner, {_state, call, _rest}} when owner == self() -> halt(call.ref, call)
        {owner, {_state, call, _rest}} -> halt_elsewhere(owner, call)
      end
    )
  end

  @doc """
  Starts a command whose chunks reach this process as the messages of `Snakepit.Call`.

  Options as for `execute_stream/5`; here `:demand` is how many chunks are asked for to begin with,
  and `ask/2` asks for more.
  """
  @spec start_stream(target, String.t(), map | keyword, keyword) ::
          {:ok, Call.t()} | {:error, Error.t()}
  def start_stream(target, command, args \\ %{}, options \\ []) do
    open_stream(target, make_ref(), command, args, options, %{@taken_here | bounded: false})
  end

  @doc false
  # `bounded`: credit comes back for each chunk, so that bytes can be counted beside chunks.
  # An observer is a process and a term, for `{:snakepit_stream_ended, term, event, meta, chunks, us}`.
  def open_stream(target, ref, command, args, options, how \\ @taken_here) do
    with :ok <- Config.check(options, @stream_options),
         {:ok, spec} <- spec(command, args, options),
         {:ok, handle} <- open(target, put_elem(spec, 0, ref), stream_spec(options, how)) do
      # Of messages somebody else keeps the times.
      limits = if how.bounded, do: limits(command, options, how.pool)
      {:ok, %Call{ref: ref, handle: handle, limits: limits}}
    end
  end

  @doc "Asks for `chunks` more chunks of a stream."
  @spec ask(Call.t(), pos_integer) :: :ok
  def ask(call, chunks) when is_integer(chunks) and chunks in 1..@max_chunks,
    do: on_handle(call, &Native.ask_more(&1, chunks))

  def ask(_call, chunks) do
    raise ArgumentError,
          "expected a number of chunks from 1 to #{@max_chunks}, got: #{inspect(chunks)}"
  end

  @doc """
  Ends a stream early. Nothing of it is left in the mailbox of the calling process, which has to be
  the one that started it. Does nothing to one that has ended.
  """
  @spec cancel(Call.t()) :: :ok
  def cancel(call) do
    :ok = on_handle(call, &Native.cancel/1)
    flush(call.ref)
  end

  defp cancel(ref, call) do
    # Once the NIF has returned, nothing more is sent.
    Native.cancel(call.handle)
    flush(ref)
  end

  defp on_handle(%Call{handle: handle} = call, native) do
    native.(handle)
  rescue
    error in [ErlangError, ArgumentError] ->
      case error do
        # A call does not outlive the library.
        %ErlangError{original: :not_loaded} -> :ok
        _ -> no_call(call)
      end
  end

  defp on_handle(other, _native), do: no_call(other)

  defp no_call(other) do
    raise ArgumentError,
          "expected the Snakepit.Call that start_stream/3 returned, got: #{inspect(other)}"
  end

  @doc false
  # `{id, request_id}`, or the error of a library that is not loaded.
  def new_call, do: loaded(fn -> Native.new_call() end)

  @doc false
  # Whether there was one.
  def end_session(pool, session_id),
    do: started(loaded(fn -> Native.pool_end_session(pool, session_id) end))

  @doc "Asks a server how it is: a map with `\"healthy\"`, `\"uptime_ms\"` and its counts."
  @spec health(target, keyword) :: {:ok, map} | {:error, Error.t()}
  def health(channel, options \\ []) do
    with :ok <- Config.check(options, %{timeout: {:positive, @longest}, worker_id: :string}) do
      timeout = Keyword.get(options, :timeout, @timeout)
      answer(&Native.health(&1, channel, Keyword.get(options, :worker_id, ""), timeout))
    end
  end

  @doc false
  def start_health(channel, worker_id, timeout),
    do: request(&Native.health(&1, channel, worker_id, timeout))

  @doc "Asks a server what it is: its type, version, commands, statistics and system."
  @spec get_info(target, keyword) :: {:ok, map} | {:error, Error.t()}
  def get_info(channel, options \\ []) do
    with :ok <- Config.check(options, %{timeout: {:positive, @longest}}),
         do: answer(&Native.get_info(&1, channel, Keyword.get(options, :timeout, @timeout), true))
  end

  @doc false
  def start_info(channel, timeout, commands?),
    do: request(&Native.get_info(&1, channel, timeout, commands?))

  @doc """
  Encodes arguments as a peer without our additions reads them: a binary as it is, anything else
  as JSON.

      iex> Snakepit.GRPC.Client.encode_args(%{a: 1, b: "test", c: [1, 2, 3]})
      %{"a" => "1", "b" => "test", "c" => "[1,2,3]"}

  Raises `Snakepit.Error` for what cannot be sent.
  """
  @spec encode_args(map | keyword) :: %{String.t() => binary}
  def encode_args(args), do: bang(encoded(args, &Native.encode_args/1))

  @doc """
  Decodes what such a peer sent: JSON if it parses, else a binary.

      iex> Snakepit.GRPC.Client.decode_result(%{"a" => "1", "b" => "test", "c" => "[1,2,3]"})
      %{"a" => 1, "b" => "test", "c" => [1, 2, 3]}
  """
  @spec decode_result(%{String.t() => binary}) :: map
  def decode_result(result) do
    wanted = "a map of strings to binaries"
    bang(loaded(fn -> Native.decode_result(result) end, wanted))
  end

  @doc false
  # A value as extended JSON, which for most values is JSON: the messages of workers over
  # stdin/stdout.
  @spec encode_extended(term) :: {:ok, binary} | {:error, Error.t()}
  def encode_extended(value), do: started(encoded(value, &Native.encode_extended/1, nil, ""))

  @doc false
  @spec decode_extended(binary) :: {:ok, term} | {:error, Error.t()}
  def decode_extended(bytes), do: started(loaded(fn -> Native.decode_extended(bytes) end))

  @doc false
  # The error that every call gives while the native library is not loaded, or nil.
  def unavailable do
    if message = Native.load_error() do
      %Error{
        reason: :grpc_unavailable,
        message: "the native library could not be loaded: #{message}"
      }
    end
  end

  @doc false
  def error(
        {reason, message, details},
        command \\ nil,
        {request_id, worker_id, _, _} \\ {nil, nil, 0, 0}
      ) do
    %Error{
      reason: reason,
      message: message,
      command: command,
      worker_id: worker_id,
      request_id: request_id,
      details: details
    }
  end

  @doc false
  # What the native side has to know of a call; the first of it is the reference of its messages.
  def spec(command, args, options) do
    with :ok <- check_command(command) do
      timeout = millis(Keyword.get(options, :timeout, @timeout))
      queue_timeout = millis(Keyword.get(options, :queue_timeout, :infinity))
      session = session(options[:session_id], options)
      metadata = metadata(options)
      {:ok, {nil, command, args, session, options[:request_id], timeout, queue_timeout, metadata}}
    end
  end

  @doc false
  def check_command(command) do
    if is_binary(command) and String.valid?(command) do
      :ok
    else
      message = "a command is a string, in UTF-8, got: #{inspect(command)}"
      {:error, %Error{reason: :unknown_command, message: message}}
    end
  end

  defp check_address(address) do
    if is_binary(address) and String.valid?(address) do
      :ok
    else
      message = "an address is \"unix:/path\" or \"tcp:host:port\", got: #{inspect(address)}"
      {:error, %Error{reason: :invalid_args, message: message}}
    end
  end

  defp session(nil, _options), do: nil
  defp session(id, options), do: {id, Keyword.get(options, :affinity, :strict) == :strict}

  @doc false
  def metadata(options) do
    given = for {name, value} <- Keyword.get(options, :metadata, []), do: {to_string(name), value}
    if parent = options[:traceparent], do: [{"traceparent", parent} | given], else: given
  end

  defp millis(:infinity), do: nil
  defp millis(timeout), do: timeout

  defp start_call(target, spec) do
    quick = &Native.call(target, put_elem(spec, 2, &1))
    large = &Native.call_large(target, put_elem(spec, 2, &1))
    started(encoded(elem(spec, 2), quick, large), elem(spec, 1), elem(spec, 4))
  end

  defp open(target, spec, stream_spec) do
    quick = &Native.stream(target, put_elem(spec, 2, &1), stream_spec)
    large = &Native.stream_large(target, put_elem(spec, 2, &1), stream_spec)
    started(encoded(elem(spec, 2), quick, large), elem(spec, 1), elem(spec, 4))
  end

  # Arguments that take longer than a NIF may are encoded on a dirty scheduler, and only those that
  # have structs in them go through the protocol.
  defp encoded(args, quick, large \\ nil, root \\ "args") do
    case loaded(fn -> quick.(args) end) do
      :large ->
        encoded(args, large)

      {:struct, _path, _name} ->
        with {:ok, args} <- Structs.replace(args, root), do: encoded(args, quick, large)

      other ->
        other
    end
  end

  defp stream_spec(options, how) do
    first_chunk_timeout = millis(Keyword.get(options, :first_chunk_timeout, :infinity))
    idle_timeout = millis(Keyword.get(options, :idle_timeout, :infinity))
    demand = Keyword.get(options, :demand, @demand)
    {how.pool, demand, how.bounded, first_chunk_timeout, idle_timeout, how.observer}
  end

  defp started(started, command \\ nil, request_id \\ nil)

  defp started({:error, failure, request_id}, command, _given),
    do: {:error, error(failure, command, {request_id, nil, 0, 0})}

  defp started({:error, %Error{} = error}, command, request_id),
    do: {:error, %{error | command: command, request_id: request_id}}

  defp started({:error, failure}, command, request_id),
    do: {:error, error(failure, command, {request_id, nil, 0, 0})}

  defp started(started, _command, _request_id), do: started

  @doc false
  # `start` as for `stream/1`.
  # The reference is made here, and goes as an argument to where it is waited for: the compiler sees
  # then that a receive may pass over the messages that were in the mailbox before.
  def each_chunk(start, callback) do
    unless is_function(callback, 1) do
      raise ArgumentError,
            "expected a function of one argument, a chunk, for a callback, got: #{inspect(callback)}"
    end

    ref = make_ref()

    with {:ok, call} <- start.(ref), do: each_chunk(ref, call, callback)
  end

  defp each_chunk(ref, call, callback) do
    {:event, call, event} = next_event(ref, call)

    case event do
      {:chunks, chunks} ->
        count = length(chunks)
        call = %{call | span: Telemetry.chunks(call.span, count)}

        case each(chunks, callback, call) do
          :halt ->
            halt(ref, call)

          :cont ->
            ask(call, count)
            each_chunk(ref, call, callback)
        end

      {:done, info} ->
        Telemetry.stop_call(call.span, meta(info))

      {:error, error} ->
        Telemetry.fail_call(call.span, error, nil)
        {:error, error}
    end
  end

  # For a stream whose state the enumeration keeps. As the last call is the wait for the first event, the
  # reference's place in the mailbox stays known for the waits to come.
  defp first_event(start) do
    ref = make_ref()

    case start.(ref) do
      {:ok, call} -> next_event(ref, call)
      {:error, error} -> {:error, error}
    end
  end

  defp next_event(ref, call) do
    receive do
      {:snakepit, ^ref, event} -> {:event, begun(call), event}
    after
      patience(call.limits) ->
        case give_up(call.handle, ref) do
          {:ok, event} -> {:event, call, event}
          :none -> {:event, call, {:error, overdue_error(call.limits)}}
        end
    end
  end

  # What bounds the wait for each event, where the native library does not: the moment of the deadline, and
  # the time for a chunk.
  defp limits(command, options, pool) do
    until = with late when is_integer(late) <- overdue(options), do: now() + late
    first = Keyword.get(options, :first_chunk_timeout, :infinity)
    idle = Keyword.get(options, :idle_timeout, :infinity)
    %{until: until, first: first, idle: idle, command: command, options: options, pool: pool}
  end

  defp begun(%{limits: %{first: first} = limits} = call) when first != nil,
    do: %{call | limits: %{limits | first: nil}}

  defp begun(call), do: call

  # Atoms come after numbers.
  defp patience(limits) do
    left = if limits.until == :infinity, do: :infinity, else: max(limits.until - now(), 0)
    min(left, late(limits.first || limits.idle))
  end

  defp overdue_error(%{command: command, options: options} = limits) do
    chunk = if limits.first, do: :first_chunk_timeout, else: :idle_timeout

    error =
      if limits.until != :infinity and limits.until <= now() do
        overdue_error(command, options)
      else
        what = "no chunk came within #{options[chunk]} ms (#{inspect(chunk)})"
        overdue_error(what, command, options)
      end

    %{error | pool: limits.pool}
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp halt(ref, call) do
    cancel(ref, call)
    Telemetry.stop_call(call.span, nil, true)
  end

  # A suspended stream that another process than its owner ends: an owner that goes on with it all the same
  # finds that out behind the chunks that it has been sent.
  defp halt_elsewhere(owner, %{ref: ref} = call) do
    Native.cancel(call.handle)
    message = "the stream was ended by another process, #{inspect(self())}"
    send(owner, {:snakepit, ref, {:error, %Error{reason: :cancelled, message: message}}})
    Telemetry.stop_call(call.span, nil, true)
  end

  defp meta(info), do: {info.request_id, info.worker_id, info.queue_us, info.execution_us}

  defp each(chunks, callback, call) do
    Enum.reduce_while(chunks, :cont, fn chunk, :cont ->
      if callback.(chunk) == :halt, do: {:halt, :halt}, else: {:cont, :cont}
    end)
  catch
    kind, reason ->
      cancel(call)
      Telemetry.raise_call(call.span, kind, reason, __STACKTRACE__)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp next_chunks(owner, {:used, call, count}) do
    ask(call, count)
    next_chunks(owner, next_event(call.ref, call))
  end

  defp next_chunks(owner, {:event, call, {:chunks, chunks}}) do
    count = length(chunks)
    call = %{call | span: Telemetry.chunks(call.span, count)}
    {chunks, {owner, {:used, call, count}}}
  end

  defp next_chunks(_owner, {:event, call, {:done, info}}) do
    Telemetry.stop_call(call.span, meta(info))
    {:halt, :done}
  end

  defp next_chunks(_owner, {:event, call, {:error, error}}) do
    Telemetry.fail_call(call.span, error, nil)
    {:halt, {:failed, error}}
  end

  defp flush(ref) do
    receive do
      {:snakepit, ^ref, _event} -> flush(ref)
    after
      0 -> :ok
    end
  end

  # Starts what answers with `{ref, {:ok, value} | {:error, failure}}`.
  defp request(start) do
    ref = make_ref()
    with :ok <- started(loaded(fn -> start.(ref) end)), do: {:ok, ref}
  end

  # The same, and waits for it.
  defp answer(start) do
    ref = make_ref()

    with :ok <- started(loaded(fn -> start.(ref) end)) do
      receive do
        {^ref, {:ok, value}} -> {:ok, value}
        {^ref, {:error, failure}} -> {:error, error(failure)}
      end
    end
  end

  # `wanted` is what a NIF refuses as no such thing: all else has been checked before.
  defp loaded(native, wanted \\ "a connection that Snakepit.GRPC.Client.connect/2 returned") do
    native.()
  rescue
    error in [ErlangError, ArgumentError] ->
      case error do
        %ErlangError{original: :not_loaded} -> {:error, unavailable()}
        %ArgumentError{} -> reraise ArgumentError, "expected #{wanted}", __STACKTRACE__
        error -> reraise error, __STACKTRACE__
      end
  end

  defp bang({:ok, value}), do: value
  defp bang({:error, %Error{} = error}), do: raise(error)
  defp bang({:error, failure}), do: raise(error(failure))
end
