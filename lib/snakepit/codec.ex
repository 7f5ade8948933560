defmodule Snakepit.Codec do
  @moduledoc false
  # What goes to the native library and what comes back, for every transport: the description of a call,
  # values, errors.

  alias Snakepit.{Error, Native, Structs}

  @doc "What the native side has to know of a call, but for its arguments."
  @spec spec(String.t(), keyword) :: {:ok, map} | {:error, Error.t()}
  def spec(command, options) do
    with :ok <- check_command(command) do
      {:ok,
       %{
         command: command,
         request_id: options[:request_id],
         timeout: millis(Keyword.fetch!(options, :timeout)),
         queue_timeout: millis(Keyword.get(options, :queue_timeout, :infinity)),
         session: session(options[:session_id], options),
         metadata: metadata(options)
       }}
    end
  end

  defp session(nil, _options), do: nil
  defp session(id, options), do: {id, Keyword.get(options, :affinity, :strict) == :strict}

  @doc "A time as the native side takes it."
  def millis(:infinity), do: nil
  def millis(timeout), do: timeout

  @doc "The names and values that Python finds in `context.metadata`."
  def metadata(options) do
    given = for {name, value} <- Keyword.get(options, :metadata, []), do: {to_string(name), value}
    if parent = options[:traceparent], do: [{"traceparent", parent} | given], else: given
  end

  @spec check_command(term) :: :ok | {:error, Error.t()}
  def check_command(command) do
    if is_binary(command) and String.valid?(command) do
      :ok
    else
      message = "expected a command, a UTF-8 string, got: #{inspect(command)}"
      {:error, %Error{reason: :unknown_command, message: message}}
    end
  end

  @doc "Arguments as a map or keyword list; an empty list is no arguments."
  @spec args(term) :: {:ok, map | keyword} | {:error, Error.t()}
  def args(%{__struct__: _}), do: no_args()
  def args(args) when is_map(args), do: {:ok, args}
  def args([]), do: {:ok, %{}}
  def args(args), do: if(Keyword.keyword?(args), do: {:ok, args}, else: no_args())

  defp no_args do
    {:error,
     %Error{reason: :invalid_args, message: "args must be a map with atom or string keys"}}
  end

  @doc """
  Gives arguments to a NIF. Those that take longer than a NIF may are encoded on a dirty scheduler, by
  `large`, and only those that have structs in them go through the protocol `Snakepit.Encoder`.
  """
  def encode(args, quick, large \\ nil, root \\ "args") do
    case native(fn -> quick.(args) end) do
      :large ->
        encode(args, large)

      {:struct, _path, _name} ->
        with {:ok, args} <- Structs.replace(args, root), do: encode(args, quick, large)

      other ->
        other
    end
  end

  @doc """
  A value as extended JSON, which for most values is JSON: the messages of workers over stdin and stdout.
  """
  @spec encode_extended(term) :: {:ok, binary} | {:error, Error.t()}
  def encode_extended(value), do: returned(encode(value, &Native.encode_extended/1, nil, ""))

  @spec decode_extended(binary) :: {:ok, term} | {:error, Error.t()}
  def decode_extended(bytes), do: returned(native(fn -> Native.decode_extended(bytes) end))

  @doc "`{id, request_id}` of a new call, or the error of a library that is not loaded."
  def new_call, do: native(fn -> Native.new_call() end)

  @doc "Ends a session of a pool: whether there was one."
  def end_session(pool, session_id),
    do: returned(native(fn -> Native.pool_end_session(pool, session_id) end))

  @doc """
  Calls a NIF. Without the library that is an error. `wanted` is what the NIF refuses as no such thing:
  all else has been checked before.
  """
  def native(call, wanted \\ "a connection that Snakepit.GRPC.Client.connect/2 returned") do
    call.()
  rescue
    error in [ErlangError, ArgumentError] ->
      case error do
        %ErlangError{original: :not_loaded} -> {:error, unavailable()}
        %ArgumentError{} -> reraise ArgumentError, "expected #{wanted}", __STACKTRACE__
        error -> reraise error, __STACKTRACE__
      end
  end

  @doc "The error that every call gives while the native library is not loaded, or nil."
  def unavailable do
    if message = Native.load_error() do
      %Error{
        reason: :grpc_unavailable,
        message: "the native library could not be loaded: #{message}"
      }
    end
  end

  @doc "What a NIF returned, its failure made an error of the command and the request."
  def returned(result, command \\ nil, request_id \\ nil)

  def returned({:error, failure, request_id}, command, _given),
    do: {:error, error(failure, command, request_id)}

  def returned({:error, %Error{} = error}, command, request_id),
    do: {:error, %{error | command: command, request_id: request_id}}

  def returned({:error, failure}, command, request_id),
    do: {:error, error(failure, command, request_id)}

  def returned(result, _command, _request_id), do: result

  @doc "The error that a failure of the native side is."
  def error(failure, command \\ nil, request_id \\ nil, worker_id \\ nil)

  def error(%Error{} = error, _command, _request_id, _worker_id), do: error

  def error({reason, message, details}, command, request_id, worker_id) do
    %Error{
      reason: reason,
      message: message,
      command: command,
      worker_id: worker_id,
      request_id: request_id,
      details: details
    }
  end
end
