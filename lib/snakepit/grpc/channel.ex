defmodule Snakepit.GRPC.Channel do
  @moduledoc false
  # Requests over a connection of the native library, or over the connections of a pool's workers. Options
  # are already checked; those of a call are complete, see `Snakepit.Config.Options.complete/2`.
  #
  # A function named `start_...` returns a reference, and the calling process gets the message
  # `{ref, {:ok, value} | {:error, failure}}`.

  alias Snakepit.{Call, Codec, Error, Native, Overdue, Progress, Transport, TwoWay}
  alias Snakepit.Config.{Tls, Token}
  alias Snakepit.Error.Cause

  @typedoc "A connection to a server, or the native side of a pool."
  @type target :: reference

  @doc "Opens a channel that connects again for the next call when its connection is lost."
  def connect(address, options), do: answer(connecting(address, options, false))

  @doc """
  As `connect/2`, but the calling process gets `{ref, {:closed, lasted_ms}}` when the connection is
  lost. `:journal` is the start journal that was given to the server, `:earlier` a channel to the same process: calls on
  both learn why it has exited.

  `:keepalive` is `[interval: ms, timeout: ms]`, or what `keepalive/1` returned for that and the connections to
  one server share, because the server may want to be asked less often. Without it a silent server is not asked.
  `calls: false` has each unary call be an RPC of its own. `takes_draining: false` is for workers that say elsewhere that
  they drain. `:token`, `:tls` and `:metadata` are those that `start_credentials/3` has sent.
  """
  def start_connect(address, options), do: request(connecting(address, options, true))

  @doc "Returns a keep-alive that the connections to one server share."
  @spec keepalive(keyword | reference | nil) :: reference | nil
  def keepalive(times) when is_list(times),
    do: Native.keepalive(Keyword.fetch!(times, :interval), Keyword.fetch!(times, :timeout))

  def keepalive(shared), do: shared

  defp connecting(address, options, watched) do
    options = %{
      address: address,
      secret: options[:secret],
      max_message_size: Keyword.fetch!(options, :max_message_size),
      timeout: Keyword.fetch!(options, :timeout),
      watched: watched,
      calls: Keyword.get(options, :calls, true),
      takes_draining: Keyword.get(options, :takes_draining, true),
      keepalive: options[:keepalive],
      journal: options[:journal],
      earlier: options[:earlier],
      headers:
        for(token <- List.wrap(options[:token]), do: {"authorization", "Bearer " <> token}),
      metadata: for({name, value} <- options[:metadata] || [], do: {to_string(name), value}),
      tls: options[:tls]
    }

    &Native.connect(&1, Map.update!(options, :keepalive, fn given -> keepalive(given) end))
  end

  @doc """
  Asks for the token and reads the files of the certificates, which may take time. Within `timeout` ms the calling process gets
  `{ref, {:ok, options}}`, those of `connect/2`, or `{ref, {:error, message}}`, where `ref` is what this returns.

  `given` are the options `:tls`, `:token` and `:metadata` of a pool or a channel, and `:root`, from which relative paths
  start; `server_name` is the name in the certificate, if that is not the host of the address.
  """
  @spec start_credentials(map, String.t() | nil, timeout) :: reference
  def start_credentials(given, server_name, timeout) do
    {owner, ref} = {self(), make_ref()}
    spawn(fn -> send(owner, {ref, credentials(given, server_name, timeout)}) end)
    ref
  end

  defp credentials(given, server_name, timeout) do
    {asking, monitor} = spawn_monitor(fn -> exit({:asked, ask(given, server_name)}) end)

    receive do
      {:DOWN, ^monitor, :process, _pid, {:asked, answer}} -> answer
      {:DOWN, ^monitor, :process, _pid, reason} -> {:error, Cause.exited(reason)}
    after
      timeout ->
        Process.exit(asking, :kill)
        {:error, "the function of the option :token returned nothing within #{timeout} ms"}
    end
  end

  defp ask(given, server_name) do
    with {:ok, token} <- Token.fetch(given.token),
         {:ok, tls} <- Tls.load(given.tls, given.root, server_name),
         do: {:ok, [token: token, tls: tls, metadata: given.metadata]}
  end

  def health(channel, worker_id, timeout),
    do: answer(&Native.health(&1, channel, worker_id, timeout))

  def start_health(channel, worker_id, timeout),
    do: request(&Native.health(&1, channel, worker_id, timeout))

  def info(channel, timeout), do: answer(&Native.get_info(&1, channel, timeout, true))

  def start_info(channel, timeout, commands?),
    do: request(&Native.get_info(&1, channel, timeout, commands?))

  @doc """
  Executes a command. The last element of the result is the call's meta, or nil if the call has not reached
  the native library.
  """
  @spec run(target, String.t(), map | keyword, map) ::
          {:ok, map, Transport.meta()} | {:error, Error.t(), Transport.meta() | nil}
  def run(target, command, args, options) do
    ref = make_ref()

    with {:ok, spec} <- Codec.spec(command, options),
         {:ok, handle} <- start_call(target, ref, args, spec, options, :call) do
      cond do
        is_struct(handle) ->
          ref |> TwoWay.await(handle, command, options) |> replied(command)

        options.on_progress != nil ->
          until = Overdue.until(options)
          ref |> await_with_progress(handle, command, options, until) |> replied(command)

        true ->
          receive do
            {^ref, reply} -> replied(reply, command)
          after
            Overdue.wait(options) ->
              handle |> Overdue.give_up(ref, command, options) |> replied(command)
          end
      end
    else
      {:error, error} -> {:error, error, nil}
    end
  end

  defp await_with_progress(ref, handle, command, options, until) do
    receive do
      {^ref, reply} ->
        reply

      {:snakepit_progress, ^ref, reported} ->
        about = %{command: command, request_id: options.request_id}
        cancel = fn -> Overdue.cancel(handle, ref) end
        Progress.pass_on(options.on_progress, ref, reported, about, cancel)
        await_with_progress(ref, handle, command, options, until)
    after
      Overdue.left(until) ->
        reply = Overdue.give_up(handle, ref, command, options)
        Progress.flush(ref)
        reply
    end
  end

  @doc "As `run/4`, without waiting for the result: see `Snakepit.Transport`."
  @spec start(target, term, String.t(), map | keyword, map) :: Transport.progress()
  def start(target, tag, command, args, options) do
    with {:ok, spec} <- Codec.spec(command, options),
         {:ok, handle} <- start_call(target, tag, args, spec, options, :map) do
      {:wait, pending(handle, command, Overdue.until(options))}
    else
      {:error, error} -> {:done, {:error, error, nil}}
    end
  end

  defp pending(%TwoWay{handle: handle} = two_way, command, until),
    do: %{handle: handle, command: command, two_way: two_way, until: until}

  defp pending(handle, command, until),
    do: %{handle: handle, command: command, two_way: nil, until: until}

  @spec received(Transport.pending(), term) :: Transport.progress()
  def received(pending, reply) do
    finish(pending)
    {:done, replied(reply, pending.command)}
  end

  @spec give_up(Transport.pending(), term, map) :: Transport.progress()
  def give_up(%{handle: handle, command: command} = pending, tag, options),
    do: received(pending, Overdue.give_up(handle, tag, command, options))

  # It has no inputs.
  defp finish(%{two_way: nil}), do: :ok
  defp finish(%{two_way: two_way}), do: TwoWay.finish(two_way, nil)

  @spec cancel(Transport.pending(), term) :: :ok
  def cancel(pending, tag) do
    Overdue.cancel(pending.handle, tag)
    finish(pending)
  end

  defp replied({:ok, _result, _meta} = reply, _command), do: reply

  defp replied({:error, failure, meta}, command),
    do: {:error, Codec.error(failure, command, meta.request_id, meta.worker_id), meta}

  defp replied({:error, failure}, command), do: {:error, Codec.error(failure, command), nil}

  defp start_call(target, ref, args, spec, %{tools: nil} = options, kind) do
    quick = &Native.call(target, ref, &1, spec)
    large = &Native.call_large(target, ref, &1, spec)

    case Codec.encode(args, quick, large) do
      {:input, _path} -> TwoWay.start(target, ref, args, spec, options, kind)
      started -> Codec.returned(started, spec.command, spec.request_id)
    end
  end

  defp start_call(target, ref, args, spec, options, kind),
    do: TwoWay.start(target, ref, args, spec, options, kind)

  @doc "Starts a command whose chunks are sent to the calling process."
  @spec open_stream(target, String.t(), map | keyword, map, Transport.recipient()) ::
          {:ok, Call.t()} | {:error, Error.t()}
  def open_stream(target, command, args, options, recipient) do
    %{ref: ref, pool: pool, bounded: bounded} = recipient

    with {:ok, spec} <- Codec.spec(command, options),
         stream = stream_spec(options, recipient),
         {:ok, handle, two_way} <- start_stream(target, ref, args, spec, options, stream) do
      # If the caller receives the messages itself, the native library alone enforces the times.
      limits = if bounded, do: Overdue.limits(command, options, pool)
      {:ok, %Call{ref: ref, handle: handle, limits: limits, two_way: two_way}}
    end
  end

  defp start_stream(target, ref, args, spec, %{tools: nil} = options, stream) do
    quick = &Native.stream(target, ref, &1, spec, stream)
    large = &Native.stream_large(target, ref, &1, spec, stream)

    case Codec.encode(args, quick, large) do
      {:input, _path} ->
        start_two_way(target, ref, args, spec, options, stream)

      started ->
        with {:ok, handle} <- Codec.returned(started, spec.command, spec.request_id),
             do: {:ok, handle, nil}
    end
  end

  defp start_stream(target, ref, args, spec, options, stream),
    do: start_two_way(target, ref, args, spec, options, stream)

  defp start_two_way(target, ref, args, spec, options, %{bounded: bounded} = stream) do
    kind = if bounded, do: :stream, else: :messages

    with {:ok, two_way} <- TwoWay.start(target, ref, args, spec, options, kind, stream),
         do: {:ok, two_way.handle, two_way}
  end

  defp stream_spec(options, %{pool: pool, bounded: bounded, observer: observer}) do
    %{
      pool: pool,
      demand: options.demand,
      bounded: bounded,
      first_chunk_timeout: Codec.millis(options.first_chunk_timeout),
      idle_timeout: Codec.millis(options.idle_timeout),
      observer: observer
    }
  end

  defp request(start) do
    ref = make_ref()
    with :ok <- Codec.returned(Codec.native(fn -> start.(ref) end)), do: {:ok, ref}
  end

  # As `request/1`, and waits for the answer.
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
