defmodule Snakepit.GRPC.Client do
  @moduledoc """
  The one gateway to the native client: calls through a pool's workers, or over a channel of one's
  own to any server of `proto/snakepit.proto`.

      {:ok, channel} = Snakepit.GRPC.Client.connect("unix:/tmp/server.sock")
      {:ok, %{"status" => "ok"}} = Snakepit.GRPC.Client.execute(channel, "ping")

  Every function returns `{:error, %Snakepit.Error{}}` on failure.
  """

  alias Snakepit.{Config, Error}
  alias Snakepit.GRPC.Native

  @typedoc "A connection to a server, or the native side of a pool. It ends when nobody holds it."
  @opaque target :: reference

  @timeout 30_000
  @max_message_size 67_108_864

  @connect_options %{secret: :string, max_message_size: :positive, timeout: :positive}
  @call_options %{
    timeout: :timeout,
    queue_timeout: :timeout,
    session_id: :string,
    request_id: :string,
    demand: :positive
  }

  @doc """
  Connects to `"unix:/path"` or `"tcp:host:port"`.

  Options: `:secret` (sent as `x-snakepit-secret`), `:max_message_size` (bytes of what is sent and
  received, default #{@max_message_size}), `:timeout` (ms, default #{@timeout}).
  """
  @spec connect(String.t(), keyword) :: {:ok, target} | {:error, Error.t()}
  def connect(address, options \\ []) do
    with :ok <- Config.check(options, @connect_options),
         {:ok, ref} <- start_connect(address, options, false) do
      await(ref)
    end
  end

  @doc false
  # As `connect/2`, but the caller gets `{ref, {:ok, channel} | {:error, failure}}` and, once the
  # connection is lost, `{ref, :closed}`.
  def start_connect(address, options, watched \\ true) do
    request(fn ref ->
      secret = options[:secret]
      size = Keyword.get(options, :max_message_size, @max_message_size)

      Native.connect(
        ref,
        address,
        secret,
        size,
        Keyword.get(options, :timeout, @timeout),
        watched
      )
    end)
  end

  @doc """
  Executes a command and waits for its result, a map with string keys.

  Options: `:timeout` (ms or `:infinity`, default #{@timeout}), `:queue_timeout` (of a pool),
  `:session_id`, `:request_id`.
  """
  @spec execute(target, String.t(), map | keyword, keyword) :: {:ok, map} | {:error, Error.t()}
  def execute(target, command, args \\ %{}, options \\ []) do
    ref = make_ref()

    with :ok <- Config.check(options, @call_options),
         {:ok, spec} <- spec(ref, command, args, options),
         :ok <- start_call(target, spec, command) do
      receive do
        {^ref, {:ok, result, _meta}} -> {:ok, result}
        {^ref, {:error, failure, meta}} -> {:error, error(failure, command, meta)}
        {^ref, {:error, failure}} -> {:error, error(failure, command)}
      end
    end
  end

  @doc """
  Executes a command and calls `callback` with each chunk, in this process.

  A chunk is a map with string keys, with `"is_final"` beside the values. The callback's value is
  ignored, except `:halt`, which cancels the rest. Options as for `execute/4`, and `:demand`: how
  many chunks may be on their way to the callback (default 256).
  """
  @spec execute_stream(target, String.t(), map | keyword, (map -> any), keyword) ::
          :ok | {:error, Error.t()}
  def execute_stream(target, command, args, callback, options \\ [])
      when is_function(callback, 1) do
    ref = make_ref()
    demand = Keyword.get(options, :demand, 256)

    with :ok <- Config.check(options, @call_options),
         {:ok, spec} <- spec(ref, command, args, options),
         {:ok, handle} <- start_stream(target, spec, demand, command) do
      consume(ref, handle, callback, command)
    end
  end

  @doc "Asks a server how it is: a map with `\"healthy\"`, `\"uptime_ms\"` and its counts."
  @spec health(target, keyword) :: {:ok, map} | {:error, Error.t()}
  def health(channel, options \\ []) do
    timeout = Keyword.get(options, :timeout, @timeout)

    with :ok <- Config.check(options, %{timeout: :positive, worker_id: :string}),
         {:ok, ref} <- start_health(channel, Keyword.get(options, :worker_id, ""), timeout) do
      await(ref)
    end
  end

  @doc false
  def start_health(channel, worker_id, timeout) do
    request(&Native.health(&1, channel, worker_id, timeout))
  end

  @doc "Asks a server what it is: its type, version, commands, statistics and system."
  @spec get_info(target, keyword) :: {:ok, map} | {:error, Error.t()}
  def get_info(channel, options \\ []) do
    with :ok <- Config.check(options, %{timeout: :positive}),
         {:ok, ref} <-
           request(&Native.get_info(&1, channel, Keyword.get(options, :timeout, @timeout))) do
      await(ref)
    end
  end

  @doc """
  Encodes arguments as a peer without our additions reads them: a binary as it is, anything else
  as JSON.

      iex> Snakepit.GRPC.Client.encode_args(%{a: 1, b: "test", c: [1, 2, 3]})
      %{"a" => "1", "b" => "test", "c" => "[1,2,3]"}

  Raises `Snakepit.Error` for what cannot be sent.
  """
  @spec encode_args(map | keyword) :: %{String.t() => binary}
  def encode_args(args), do: bang(loaded(fn -> Native.encode_args(args) end))

  @doc """
  Decodes what such a peer sent: JSON if it parses, else a binary.

      iex> Snakepit.GRPC.Client.decode_result(%{"a" => "1", "b" => "test", "c" => "[1,2,3]"})
      %{"a" => 1, "b" => "test", "c" => [1, 2, 3]}
  """
  @spec decode_result(%{String.t() => binary}) :: map
  def decode_result(result), do: bang(loaded(fn -> Native.decode_result(result) end))

  @doc false
  # The error that every call gives while the native library is not loaded, or nil.
  def unavailable do
    if message = Native.load_error() do
      %Error{
        reason: :grpc_unavailable,
        message:
          "the native library could not be loaded: #{message}; " <>
            "run `mix compile` with Rust installed to build it"
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

  defp spec(ref, command, args, options) when is_binary(command) do
    timeout = millis(Keyword.get(options, :timeout, @timeout))
    queue_timeout = millis(Keyword.get(options, :queue_timeout, :infinity))
    session_id = options[:session_id]
    {:ok, {ref, command, args, session_id, options[:request_id], timeout, queue_timeout}}
  end

  defp spec(_ref, command, _args, _options) do
    message = "a command is a string, got: #{inspect(command)}"
    {:error, %Error{reason: :unknown_command, message: message}}
  end

  defp millis(:infinity), do: nil
  defp millis(timeout), do: timeout

  # Arguments that take longer than a NIF may are encoded on a dirty scheduler.
  defp start_call(target, spec, command) do
    case loaded(fn -> Native.call(target, spec) end) do
      :large -> started(Native.call_large(target, spec), command)
      other -> started(other, command)
    end
  end

  defp start_stream(target, spec, demand, command) do
    case loaded(fn -> Native.stream(target, spec, demand) end) do
      :large -> started(Native.stream_large(target, spec, demand), command)
      other -> started(other, command)
    end
  end

  defp started({:error, %Error{}} = error, _command), do: error
  defp started({:error, failure}, command), do: {:error, error(failure, command)}
  defp started(started, _command), do: started

  defp consume(ref, handle, callback, command) do
    receive do
      {^ref, chunks, status} ->
        case {each(chunks, callback, ref, handle, status), status} do
          {:halt, _} ->
            cancel(ref, handle, status)
            :ok

          {:cont, :more} ->
            Native.ask_more(handle, length(chunks))
            consume(ref, handle, callback, command)

          {:cont, {:ok, _meta}} ->
            :ok

          {:cont, {:error, failure, meta}} ->
            {:error, error(failure, command, meta)}
        end

      {^ref, {:error, failure}} ->
        {:error, error(failure, command)}
    end
  end

  defp each([], _callback, _ref, _handle, _status), do: :cont

  defp each(chunks, callback, ref, handle, status) do
    Enum.reduce_while(chunks, :cont, fn chunk, :cont ->
      if callback.(chunk) == :halt, do: {:halt, :halt}, else: {:cont, :cont}
    end)
  catch
    kind, reason ->
      cancel(ref, handle, status)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  # Ends a stream early, and takes what it still sends out of the mailbox.
  defp cancel(ref, handle, :more) do
    Native.cancel(handle)

    receive do
      {^ref, _chunks, status} -> cancel(ref, handle, status)
      {^ref, _dropped} -> :ok
    end
  end

  defp cancel(_ref, _handle, _ended), do: :ok

  defp request(start) do
    ref = make_ref()

    case loaded(fn -> start.(ref) end) do
      :ok -> {:ok, ref}
      other -> started(other, nil)
    end
  end

  defp await(ref) do
    receive do
      {^ref, {:ok, value}} -> {:ok, value}
      {^ref, {:error, failure}} -> {:error, error(failure)}
    end
  end

  defp loaded(native) do
    native.()
  rescue
    error in ErlangError ->
      if error.original == :not_loaded,
        do: {:error, unavailable()},
        else: reraise(error, __STACKTRACE__)
  end

  defp bang({:ok, value}), do: value
  defp bang({:error, %Error{} = error}), do: raise(error)
  defp bang({:error, failure}), do: raise(error(failure))
end
