defmodule Snakepit.MapStream do
  @moduledoc false
  # The lazy `Stream` of `Snakepit.map/3`. The process that enumerates it makes the calls itself and waits for
  # several at once: their messages are tagged with the stream's reference and the number of the call.

  alias Snakepit.{Retry, Telemetry}
  alias Snakepit.Pool.Numbers

  @not_owner "a stream of Snakepit.map/3 belongs to the process that began to enumerate it, which receives " <>
               "the results as messages; continue it there"

  defstruct [
    :owner,
    :ref,
    # Makes a call of the arguments: `{:ok, call}`, see `t:Snakepit.Transport.call/0`, or an error.
    :prepare,
    # The rest of the arguments, as the continuation of a reduction; nil at their end.
    :source,
    # Returns how many calls may be in flight.
    :max,
    :ordered,
    # The number of the next call, and of the next result. Without order results are numbered as they come.
    next: 0,
    done: 0,
    emit: 0,
    in_flight: %{},
    # Calls that are made again later.
    waiting: %{},
    results: %{},
    # When to look at the times of all calls.
    check_at: :infinity,
    # The exception of the source.
    raised: nil
  ]

  @doc """
  `start` is called when the stream is enumerated, and returns `{:ok, %{prepare:, max:, ordered:}}` or an error, which
  is raised.
  """
  @spec new(Enumerable.t(), (() -> {:ok, map} | {:error, Exception.t()})) :: Enumerable.t()
  def new(enumerable, start) do
    Stream.resource(fn -> begin(enumerable, start) end, &next/1, &stop/1)
  end

  defp begin(enumerable, start) do
    case start.() do
      {:ok, given} ->
        source = &Enumerable.reduce(enumerable, &1, fn args, _none -> {:suspend, args} end)
        %{struct(__MODULE__, given) | owner: self(), ref: make_ref(), source: source}

      {:error, error} ->
        raise error
    end
  end

  # It does one thing at a time, so that its last state is complete whatever is raised.
  defp next(%{owner: owner}) when owner != self(), do: {:halt, :not_owner}

  defp next(state) do
    cond do
      state.source != nil and room?(state) -> pull(state)
      calls(state) > 0 -> receive_next(state)
      ready?(state) -> emit(state)
      true -> {:halt, state}
    end
  end

  # As many results may wait for an earlier one or for the consumer as calls may be in flight.
  defp room?(state) do
    max = state.max.()
    calls(state) < max and calls(state) + map_size(state.results) < 2 * max
  end

  defp calls(state), do: map_size(state.in_flight) + map_size(state.waiting)
  defp ready?(state), do: is_map_key(state.results, state.emit)

  defp emit(%{emit: number} = state) do
    {result, results} = Map.pop!(state.results, number)
    {[result], %{state | results: results, emit: number + 1}}
  end

  defp pull(state) do
    case state.source.({:cont, nil}) do
      {:suspended, args, source} -> {:args, args, source}
      _end -> :end
    end
  catch
    # The source has ended itself.
    kind, reason -> {:halt, %{state | source: nil, raised: {kind, reason, __STACKTRACE__}}}
  else
    {:args, args, source} -> {[], make(args, %{state | source: source})}
    :end -> {[], %{state | source: nil}}
  end

  defp make(args, %{next: id} = state) do
    state = %{state | next: id + 1}

    case state.prepare.(args) do
      {:ok, call} -> start(id, call, state)
      {:error, error} -> finish(id, {:error, error}, state)
    end
  end

  defp start(id, call, state) do
    %{pool: pool, command: command, args: args, options: options} = call
    tag = {state.ref, id}
    pool.transport.start(pool, tag, command, args, options) |> started(id, call, state)
  end

  defp started({:wait, pending}, id, call, state) do
    in_flight = Map.put(state.in_flight, id, Map.put(call, :pending, pending))
    check_at(pending.until, %{state | in_flight: in_flight})
  end

  defp started({:done, {:ok, result, meta}}, id, call, state) do
    Telemetry.stop_call(call.span, meta)
    finish(id, {:ok, result}, state)
  end

  defp started({:done, {:error, error, meta}}, id, call, state) do
    case Retry.next(call, error) do
      {:again, wait, call} ->
        due = now() + wait
        waiting = Map.put(state.waiting, id, Map.put(call, :due, due))
        check_at(due, %{state | waiting: waiting})

      {:error, error} ->
        Numbers.failed(call.pool.native, call.command, error, meta)
        Telemetry.fail_call(call.span, error, meta)
        finish(id, {:error, error}, state)
    end
  end

  defp finish(id, result, %{done: done} = state) do
    number = if state.ordered, do: id, else: done
    %{state | results: Map.put(state.results, number, result), done: done + 1}
  end

  # Messages come first: each leaves room for another call, which runs while the consumer has a result.
  defp receive_next(%{ref: ref} = state) do
    receive do
      {{^ref, id}, message} -> {[], received(id, message, state)}
      {{^ref, id}, _monitor, :process, _pid, reason} -> {[], received(id, {:down, reason}, state)}
    after
      patience(state) ->
        cond do
          state.check_at <= now() -> {[], check(state)}
          ready?(state) -> emit(state)
          true -> {[], state}
        end
    end
  end

  defp patience(state) do
    cond do
      ready?(state) -> 0
      state.check_at == :infinity -> :infinity
      true -> max(state.check_at - now(), 0)
    end
  end

  defp received(id, message, state) do
    case Map.pop(state.in_flight, id) do
      {nil, _in_flight} ->
        state

      {call, in_flight} ->
        call.pool.transport.received(call.pending, message)
        |> started(id, call, %{state | in_flight: in_flight})
    end
  end

  # Gives up the calls that are overdue, and makes those again whose time has come.
  defp check(state) do
    now = now()
    late = for {id, %{pending: %{until: until}}} when until <= now <- state.in_flight, do: id
    due = for {id, %{due: due}} when due <= now <- state.waiting, do: id
    state = Enum.reduce(late, state, &give_up/2)
    state = Enum.reduce(due, state, &again/2)
    times = for({_id, call} <- state.in_flight, do: call.pending.until)
    times = for({_id, call} <- state.waiting, do: call.due) ++ times
    # An atom is greater than a number.
    %{state | check_at: Enum.min(times, fn -> :infinity end)}
  end

  defp give_up(id, state) do
    {%{pending: pending} = call, in_flight} = Map.pop!(state.in_flight, id)

    call.pool.transport.give_up(pending, {state.ref, id}, call.options)
    |> started(id, call, %{state | in_flight: in_flight})
  end

  defp again(id, state) do
    {call, waiting} = Map.pop!(state.waiting, id)
    state = %{state | waiting: waiting}

    case Retry.renew(call) do
      {:ok, call} -> start(id, call, state)
      {:error, error} -> started({:done, {:error, error, nil}}, id, call, state)
    end
  end

  defp check_at(time, state), do: %{state | check_at: min(time, state.check_at)}

  defp stop(:not_owner), do: raise(ArgumentError, @not_owner)

  defp stop(state) do
    # Another process cannot cancel them: they end by themselves.
    if state.owner == self(), do: Enum.each(state.in_flight, &cancel(&1, state.ref))
    for {_id, call} <- state.waiting, do: Telemetry.stop_call(call.span, nil, true)
    if state.source, do: state.source.({:halt, nil})

    with {kind, reason, stacktrace} <- state.raised,
         do: :erlang.raise(kind, reason, stacktrace)
  end

  defp cancel({id, call}, ref) do
    call.pool.transport.cancel(call.pending, {ref, id})
    Telemetry.stop_call(call.span, nil, true)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
