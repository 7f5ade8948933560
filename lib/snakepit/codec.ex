defmodule Snakepit.Codec do
  @moduledoc false
  # Converts for every transport between Elixir and the native library: the description of a call, values,
  # errors.

  alias Snakepit.Config.{Options, Type}
  alias Snakepit.{Error, Native, Structs}
  alias Snakepit.TwoWay.Holding

  # The metadata that has the id of a session with `affinity: :server`.
  @session "session_id"

  @doc "Describes a call for the native library, without its arguments. The options are complete."
  @spec spec(String.t(), map) :: {:ok, map} | {:error, Error.t()}
  def spec(command, options) do
    with :ok <- check_command(command),
         :ok <- check_session(options) do
      %{request_id: request_id, timeout: timeout, queue_timeout: queue_timeout} = options

      {:ok,
       %{
         command: command,
         request_id: request_id,
         timeout: millis(timeout),
         queue_timeout: millis(queue_timeout),
         further: further(options, Holding.get())
       }}
    end
  end

  # What most calls have none of. The native library would need twice the time to find that out.
  defp further(
         %{
           priority: :normal,
           session_id: nil,
           metadata: [],
           traceparent: nil,
           on_progress: nil
         },
         []
       ),
       do: nil

  defp further(options, holding) do
    %{
      priority: options.priority,
      session: session(options),
      metadata: metadata(options),
      progress: options.on_progress != nil,
      holding: holding
    }
  end

  defp session(%{session_id: nil}), do: nil
  defp session(%{session_id: id, affinity: affinity}), do: {id, affinity}

  # It is sent as metadata.
  defp check_session(%{affinity: :server, session_id: "" <> _ = id}) do
    case Type.check(:metadata, [{@session, id}]) do
      true ->
        :ok

      _expected ->
        message =
          "with affinity: :server the option :session_id must be printable ASCII, because balancers find it in the " <>
            "metadata, got: #{Options.shown(id)}"

        {:error, %Error{reason: :invalid_options, message: message}}
    end
  end

  defp check_session(_options), do: :ok

  @doc "Converts a timeout for the native library."
  def millis(:infinity), do: nil
  def millis(timeout), do: timeout

  @doc "Lists the names and values that Python finds in `context.metadata`."
  def metadata(%{metadata: [], traceparent: nil, affinity: affinity}) when affinity != :server,
    do: []

  def metadata(%{traceparent: parent, tracestate: state} = options) do
    given = for {name, value} <- options.metadata, do: {to_string(name), value}
    given = session_metadata(options) ++ given
    given = if state, do: [{"tracestate", state} | given], else: given
    if parent, do: [{"traceparent", parent} | given], else: given
  end

  # For balancers that keep the calls of a session to one server. Of a name that is there twice the last value counts.
  defp session_metadata(%{affinity: :server, session_id: "" <> _ = id}), do: [{@session, id}]
  defp session_metadata(_options), do: []

  @spec check_command(term) :: :ok | {:error, Error.t()}
  def check_command(command) do
    if is_binary(command) and String.valid?(command) do
      :ok
    else
      message = "expected a command, a UTF-8 string, got: #{inspect(command)}"
      {:error, %Error{reason: :unknown_command, message: message}}
    end
  end

  @doc "Checks that arguments are a map or a keyword list. An empty list becomes an empty map."
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
  Calls the NIF `quick` with arguments. If encoding them takes longer than a NIF may, calls `large`, which
  runs on a dirty scheduler. If they contain structs, converts these with `Snakepit.Encoder` first. Returns `{:input, path}`
  if there is an input stream.
  """
  def encode(args, quick, large \\ nil, root \\ "args") do
    case native(fn -> quick.(args) end) do
      :large ->
        encode(args, large)

      {:struct, path, "Snakepit.Input"} ->
        {:input, path}

      {:struct, _path, _name} ->
        with {:ok, args} <- Structs.replace(args, root), do: encode(args, quick, large)

      other ->
        other
    end
  end

  @doc """
  Encodes a value as extended JSON, the format of messages over stdin and stdout. For most values it is
  JSON.
  """
  @spec encode_extended(term) :: {:ok, binary} | {:error, Error.t()}
  def encode_extended(value), do: returned(encode(value, &Native.encode_extended/1, nil, ""))

  @spec decode_extended(binary) :: {:ok, term} | {:error, Error.t()}
  def decode_extended(bytes), do: returned(native(fn -> Native.decode_extended(bytes) end))

  @doc "Returns `{id, request_id}` for a new call, or an error if the library is not loaded."
  def new_call, do: native(fn -> Native.new_call() end)

  @doc "Ends a session of a pool. Returns whether there was one."
  def end_session(pool, session_id),
    do: returned(native(fn -> Native.pool_end_session(pool, session_id) end))

  @doc "Ends a session with `affinity: :server`, of which the pool does not know the server."
  def end_server_session(pool, session_id) do
    with :ok <- check_session(%{affinity: :server, session_id: session_id}),
         do: returned(native(fn -> Native.pool_end_server_session(pool, session_id) end))
  end

  @doc "How many calls of a command a worker of a pool takes in the place of one: more than 1 if they gather in batches."
  @spec batch_size(reference, term) :: pos_integer
  def batch_size(pool, command),
    do: if(check_command(command) == :ok, do: Native.pool_batch_size(pool, command), else: 1)

  @doc """
  Calls a NIF. Returns an error if the library is not loaded. A NIF raises `ArgumentError` only for the
  argument that `wanted` describes: everything else was checked before.
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

  @doc "The error that every call returns while the native library is not loaded, or nil."
  def unavailable do
    if message = Native.load_error() do
      %Error{
        reason: :grpc_unavailable,
        message: "the native library could not be loaded: #{message}"
      }
    end
  end

  @doc "Converts the failure in a NIF's return value to an error, with the command and the request."
  def returned(result, command \\ nil, request_id \\ nil)

  def returned({:error, failure, request_id}, command, _given),
    do: {:error, error(failure, command, request_id)}

  def returned({:error, %Error{} = error}, command, request_id),
    do: {:error, %{error | command: command, request_id: request_id}}

  def returned({:error, failure}, command, request_id),
    do: {:error, error(failure, command, request_id)}

  # Those that are arguments of a call were taken out before.
  def returned({:input, path}, command, request_id) do
    message =
      "#{path} is an input stream, which may only be an argument of its own of a call, as in " <>
        "%{rows: Snakepit.input(rows)}"

    returned({:error, {:invalid_args, message, %{}}}, command, request_id)
  end

  def returned(result, _command, _request_id), do: result

  @doc "Converts a failure of the native library to an error."
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
