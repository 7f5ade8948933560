defmodule Snakepit.ChunkStream do
  @moduledoc false
  # Receives the chunks of a stream, for a callback, a lazy `Stream` or another process, and asks for more. The
  # argument `start` is a function that starts the call over any transport: it takes the reference of the stream's
  # messages and returns `{:ok, %Snakepit.Call{}}` or an error.
  #
  # The call's handle is that of the native library; or, for a pool on another node, the process here that passes the
  # chunks on (`Snakepit.Relay`).

  alias Snakepit.{Call, Error, Native, Overdue, Telemetry, TwoWay}

  @max_chunks 4_294_967_295

  @not_owner "a stream belongs to the process that started it, which receives its chunks as messages; " <>
               "continue it there, or forward the chunks"

  @doc """
  Calls `callback` with each chunk, in the calling process. Returns the final chunk, or nil if there is none.
  """
  # The reference is made here and passed as an argument to the function that waits for it: so the compiler
  # sees that a receive can skip the messages that were in the mailbox before.
  def each(start, callback) do
    unless is_function(callback, 1) do
      raise ArgumentError,
            "expected a function of one argument, a chunk, for a callback, got: #{inspect(callback)}"
    end

    ref = make_ref()

    with {:ok, call} <- start.(ref), do: each(ref, call, callback)
  end

  defp each(ref, call, callback) do
    {:event, call, event} = next_event(ref, call)

    case settled(call, event) do
      {:chunks, chunks} ->
        {call, count} = delivered(call, chunks)

        case call_back(chunks, callback, call) do
          :halt ->
            halt(ref, call)
            {:ok, nil}

          :cont ->
            ask(call, count)
            each(ref, %{call | final: final(chunks)}, callback)
        end

      {:done, info} ->
        Telemetry.stop_call(call.span, info)
        {:ok, call.final}

      {:error, error} ->
        with {:again, start} <- failed(call, error), do: each(start, callback)

      {:raised, kind, reason, stacktrace} ->
        :erlang.raise(kind, reason, stacktrace)
    end
  end

  # A call has ended whose input has failed.
  defp settled(%{two_way: nil}, event), do: event
  defp settled(_call, {:chunks, _chunks} = event), do: event

  defp settled(%{two_way: two_way, ref: ref} = call, event) do
    case TwoWay.finish(two_way, ref) do
      nil ->
        event

      {:error, error} ->
        {:error, error}

      {kind, reason, stacktrace} ->
        Telemetry.raise_call(call.span, kind, reason, stacktrace)
        {:raised, kind, reason, stacktrace}
    end
  end

  # It is the last one.
  defp final(chunks) do
    with %{"is_final" => false} <- List.last(chunks), do: nil
  end

  # A stream that has delivered nothing may be started again.
  defp failed(%{reopen: nil} = call, error) do
    Telemetry.fail_call(call.span, error, nil)
    {:error, error}
  end

  defp failed(call, error), do: call.reopen.(error, call.span)

  defp call_back(chunks, callback, call) do
    Enum.reduce_while(chunks, :cont, fn chunk, :cont ->
      if callback.(chunk) == :halt, do: {:halt, :halt}, else: {:cont, :cont}
    end)
  catch
    kind, reason ->
      cancel(call)
      Telemetry.raise_call(call.span, kind, reason, __STACKTRACE__)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp delivered(call, chunks) do
    count = length(chunks)
    {%{call | span: Telemetry.chunks(call.span, count), reopen: nil}, count}
  end

  @doc """
  Passes the chunks on, for another process, which asks for more with messages `{:ask, chunks}`. Returns the last event.
  """
  @spec forward((reference -> {:ok, Call.t()} | {:error, Error.t()}), ([map] -> any)) ::
          {:done, map} | {:error, Error.t()}
  def forward(start, pass_on) do
    ref = make_ref()
    with {:ok, call} <- start.(ref), do: forward(ref, call, pass_on)
  end

  defp forward(ref, call, pass_on) do
    receive do
      {:ask, chunks} ->
        ask(call, chunks)
        forward(ref, call, pass_on)

      {:snakepit, ^ref, event} ->
        forwarded(event, ref, begun(call), pass_on)
    after
      Overdue.wait_for_event(call.limits) ->
        call.handle |> Overdue.give_up(ref, call.limits) |> forwarded(ref, call, pass_on)
    end
  end

  defp forwarded({:chunks, chunks}, ref, call, pass_on) do
    pass_on.(chunks)
    {call, _count} = delivered(call, chunks)
    forward(ref, call, pass_on)
  end

  defp forwarded({:done, info}, _ref, call, _pass_on) do
    Telemetry.stop_call(call.span, info)
    {:done, info}
  end

  defp forwarded({:error, error}, _ref, call, pass_on),
    do: with({:again, start} <- failed(call, error), do: forward(start, pass_on))

  @doc "Returns a lazy `Stream` of the chunks, which starts the call when it is enumerated."
  def lazy(start) do
    Stream.resource(
      fn ->
        case first_event(start) do
          {:error, error} -> raise error
          event -> {self(), event}
        end
      end,
      fn
        {owner, next} when owner == self() -> next_chunks(owner, next)
        # The stream continues in its owner.
        {_owner, _next} -> {:halt, :not_owner}
      end,
      fn
        {:failed, error} -> raise error
        {:raised, kind, reason, stacktrace} -> :erlang.raise(kind, reason, stacktrace)
        :not_owner -> raise ArgumentError, @not_owner
        :done -> :ok
        {owner, {_state, call, _rest}} when owner == self() -> halt(call.ref, call)
        {owner, {_state, call, _rest}} -> halt_elsewhere(owner, call)
      end
    )
  end

  # For a stream whose state the enumeration keeps. The wait for the first event comes last, so that the
  # position of the reference in the mailbox stays known for later waits.
  defp first_event(start) do
    ref = make_ref()

    case start.(ref) do
      {:ok, call} -> next_event(ref, call)
      {:error, error} -> {:error, error}
    end
  end

  defp next_chunks(owner, {:used, call, count}) do
    ask(call, count)
    next_chunks(owner, next_event(call.ref, call))
  end

  defp next_chunks(owner, {:event, call, event}),
    do: take_event(owner, call, settled(call, event))

  defp take_event(owner, call, {:chunks, chunks}) do
    {call, count} = delivered(call, chunks)
    {chunks, {owner, {:used, call, count}}}
  end

  defp take_event(_owner, _call, {:raised, _kind, _reason, _stacktrace} = raised),
    do: {:halt, raised}

  defp take_event(_owner, call, {:done, info}) do
    Telemetry.stop_call(call.span, info)
    {:halt, :done}
  end

  defp take_event(owner, call, {:error, error}) do
    with {:again, start} <- failed(call, error),
         {:event, _call, _event} = event <- first_event(start) do
      next_chunks(owner, event)
    else
      {:error, error} -> {:halt, {:failed, error}}
    end
  end

  # Feeds the inputs while it waits.
  defp next_event(ref, %{two_way: %{inputs: inputs} = two_way} = call) when inputs != nil do
    receive do
      {:snakepit, ^ref, event} ->
        {:event, begun(call), event}

      {:snakepit_input, ^ref, input_id} ->
        next_event(ref, %{call | two_way: TwoWay.woken(two_way, input_id)})
    after
      if(TwoWay.feeds?(two_way), do: 0, else: Overdue.wait_for_event(call.limits)) ->
        if TwoWay.feeds?(two_way),
          do: next_event(ref, %{call | two_way: TwoWay.feed(two_way)}),
          else: {:event, call, Overdue.give_up(call.handle, ref, call.limits)}
    end
  end

  defp next_event(ref, call) do
    receive do
      {:snakepit, ^ref, event} -> {:event, begun(call), event}
    after
      Overdue.wait_for_event(call.limits) ->
        {:event, call, Overdue.give_up(call.handle, ref, call.limits)}
    end
  end

  defp begun(%{limits: nil} = call), do: call
  defp begun(%{limits: %{first: nil}} = call), do: call
  defp begun(%{limits: limits} = call), do: %{call | limits: %{limits | first: nil}}

  @doc "Asks for `chunks` more chunks of a stream."
  def ask(call, chunks) when is_integer(chunks) and chunks in 1..@max_chunks,
    do: on_handle(call, &ask_more(&1, chunks))

  def ask(_call, chunks) do
    raise ArgumentError,
          "expected a number of chunks from 1 to #{@max_chunks}, got: #{inspect(chunks)}"
  end

  @doc """
  Ends a stream early and removes its events from the mailbox of the calling process, which has to be the one
  that started the stream.
  """
  def cancel(call) do
    :ok = on_handle(call, &Overdue.cancel/1)
    finish(call)
    flush(call.ref)
  end

  defp finish(%{two_way: nil}), do: :ok
  defp finish(%{two_way: two_way, ref: ref}), do: TwoWay.finish(two_way, ref)

  defp ask_more(relay, chunks) when is_pid(relay) do
    send(relay, {:ask, chunks})
    :ok
  end

  defp ask_more(handle, chunks), do: Native.ask_more(handle, chunks)

  defp on_handle(%Call{handle: handle} = call, native) do
    native.(handle)
  rescue
    error in [ErlangError, ArgumentError] ->
      case error do
        # Without the library the call has ended.
        %ErlangError{original: :not_loaded} -> :ok
        _ -> no_call(call)
      end
  end

  defp on_handle(other, _native), do: no_call(other)

  defp no_call(other) do
    raise ArgumentError,
          "expected the Snakepit.Call that start_stream/3 returned, got: #{inspect(other)}"
  end

  defp halt(ref, call) do
    Overdue.cancel(call.handle)
    finish(call)
    flush(ref)
    Telemetry.stop_call(call.span, nil, true)
  end

  # Another process than its owner ends a suspended stream. If the owner continues it nevertheless, it gets
  # this error after the chunks that were sent before.
  defp halt_elsewhere(owner, %{ref: ref} = call) do
    Overdue.cancel(call.handle)
    finish(call)
    message = "the stream was ended by another process, #{inspect(self())}"
    send(owner, {:snakepit, ref, {:error, %Error{reason: :cancelled, message: message}}})
    Telemetry.stop_call(call.span, nil, true)
  end

  defp flush(ref) do
    receive do
      {:snakepit, ^ref, _event} -> flush(ref)
    after
      0 -> :ok
    end
  end
end
