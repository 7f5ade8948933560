defmodule Snakepit.GRPC.Channel do
  @moduledoc false
  # Requests over a connection of the native library, or over those of a pool's workers. Options are
  # checked before, and have a `:timeout`, those of a stream a `:demand` as well.
  #
  # What `start_` begins answers the calling process with `{ref, {:ok, value} | {:error, failure}}`.

  alias Snakepit.{Call, Codec, Native, Overdue}

  @typedoc "A connection to a server, or the native side of a pool."
  @type target :: reference

  @doc "A channel that connects again, for the next call, when its connection is lost."
  def connect(address, options), do: answer(connecting(address, options, false))

  @doc """
  As `connect/2`, but once the connection is lost the caller gets `{ref, :closed}`. With `:journal` the
  server was given that to note starts in.
  """
  def start_connect(address, options), do: request(connecting(address, options, true))

  defp connecting(address, options, watched) do
    options = %{
      address: address,
      secret: options[:secret],
      max_message_size: Keyword.fetch!(options, :max_message_size),
      timeout: Keyword.fetch!(options, :timeout),
      watched: watched,
      journal: options[:journal]
    }

    &Native.connect(&1, options)
  end

  def health(channel, worker_id, timeout),
    do: answer(&Native.health(&1, channel, worker_id, timeout))

  def start_health(channel, worker_id, timeout),
    do: request(&Native.health(&1, channel, worker_id, timeout))

  def info(channel, timeout), do: answer(&Native.get_info(&1, channel, timeout, true))

  def start_info(channel, timeout, commands?),
    do: request(&Native.get_info(&1, channel, timeout, commands?))

  @doc """
  Executes a command. The last of what it returns is what the native side says of the call, nil where it
  never came there: `{request_id, worker_id, queue_us, execution_us}`.
  """
  def run(target, command, args, options) do
    ref = make_ref()

    with {:ok, spec} <- Codec.spec(command, args, options),
         {:ok, handle} <- start_call(target, put_elem(spec, 0, ref)) do
      receive do
        {^ref, reply} -> replied(reply, command)
      after
        Overdue.wait(options) ->
          handle |> Overdue.give_up(ref, command, options) |> replied(command)
      end
    else
      {:error, error} -> {:error, error, nil}
    end
  end

  defp replied({:ok, _result, _meta} = reply, _command), do: reply

  defp replied({:error, failure, meta}, command),
    do: {:error, Codec.error(failure, command, meta), meta}

  defp replied({:error, failure}, command), do: {:error, Codec.error(failure, command), nil}

  defp start_call(target, spec) do
    quick = &Native.call(target, put_elem(spec, 2, &1))
    large = &Native.call_large(target, put_elem(spec, 2, &1))
    started(spec, quick, large)
  end

  @doc "Starts a command whose chunks are sent to the calling process."
  @spec open_stream(target, String.t(), map | keyword, keyword, Snakepit.Transport.recipient()) ::
          {:ok, Call.t()} | {:error, Snakepit.Error.t()}
  def open_stream(target, command, args, options, recipient) do
    with {:ok, spec} <- Codec.spec(command, args, options),
         spec = put_elem(spec, 0, recipient.ref),
         {:ok, handle} <- start_stream(target, spec, stream_spec(options, recipient)) do
      # Of messages somebody else keeps the times.
      limits = if recipient.bounded, do: Overdue.limits(command, options, recipient.pool)
      {:ok, %Call{ref: recipient.ref, handle: handle, limits: limits}}
    end
  end

  defp start_stream(target, spec, stream_spec) do
    quick = &Native.stream(target, put_elem(spec, 2, &1), stream_spec)
    large = &Native.stream_large(target, put_elem(spec, 2, &1), stream_spec)
    started(spec, quick, large)
  end

  defp stream_spec(options, recipient) do
    first_chunk_timeout = Codec.millis(Keyword.get(options, :first_chunk_timeout, :infinity))
    idle_timeout = Codec.millis(Keyword.get(options, :idle_timeout, :infinity))
    %{pool: pool, bounded: bounded, observer: observer} = recipient
    {pool, Keyword.fetch!(options, :demand), bounded, first_chunk_timeout, idle_timeout, observer}
  end

  defp started(spec, quick, large),
    do:
      spec
      |> elem(2)
      |> Codec.encode(quick, large)
      |> Codec.returned(elem(spec, 1), elem(spec, 4))

  defp request(start) do
    ref = make_ref()
    with :ok <- Codec.returned(Codec.native(fn -> start.(ref) end)), do: {:ok, ref}
  end

  # The same, and waits for it.
  defp answer(start) do
    ref = make_ref()

    with :ok <- Codec.returned(Codec.native(fn -> start.(ref) end)) do
      receive do
        {^ref, {:ok, value}} -> {:ok, value}
        {^ref, {:error, failure}} -> {:error, Codec.error(failure)}
      end
    end
  end
end
