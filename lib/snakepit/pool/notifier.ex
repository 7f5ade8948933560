defmodule Snakepit.Pool.Notifier do
  @moduledoc false
  # Emits the telemetry events of a pool's own processes, in order. Handlers run in this process,
  # for which nothing in the pool waits: they may be slow and may call the pool.
  use GenServer

  require Logger

  # How many events may wait for slow handlers; further events are dropped and counted.
  @most 10_000

  # Indexes of the counters.
  @waiting 1
  @dropped 2

  def start_link(pool), do: GenServer.start_link(__MODULE__, pool)

  @doc "Makes the pool's notifier call `emit`; without a notifier calls it directly."
  @spec run(atom, (() -> any)) :: :ok
  def run(pool, emit) do
    case :persistent_term.get({__MODULE__, pool}, nil) do
      nil -> emit.()
      {notifier, counters} -> pass_on(notifier, counters, emit)
    end

    :ok
  end

  defp pass_on(notifier, counters, emit) do
    if :atomics.add_get(counters, @waiting, 1) <= @most do
      send(notifier, {:emit, emit})
    else
      :atomics.sub(counters, @waiting, 1)
      :atomics.add(counters, @dropped, 1)
    end
  end

  @impl true
  def init(pool) do
    # The events of the pool's end are emitted before this process ends.
    Process.flag(:trap_exit, true)
    counters = :atomics.new(2, signed: true)
    :persistent_term.put({__MODULE__, pool}, {self(), counters})
    {:ok, {pool, counters}}
  end

  @impl true
  def handle_info({:emit, emit}, {pool, counters} = state) do
    :atomics.sub(counters, @waiting, 1)
    emit(emit)
    report_dropped(pool, :atomics.exchange(counters, @dropped, 0))
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, {pool, _counters} = state) do
    # A pool of the same name may have been started meanwhile.
    with {notifier, _counters} when notifier == self() <-
           :persistent_term.get({__MODULE__, pool}, nil),
         do: :persistent_term.erase({__MODULE__, pool})

    emit_rest(state)
  end

  defp emit_rest(state) do
    receive do
      {:emit, _emit} = message ->
        {:noreply, state} = handle_info(message, state)
        emit_rest(state)
    after
      0 -> :ok
    end
  end

  defp emit(emit) do
    emit.()
  catch
    kind, reason -> Logger.error(Exception.format(kind, reason, __STACKTRACE__))
  end

  defp report_dropped(_pool, 0), do: :ok

  defp report_dropped(pool, count) do
    Logger.warning(
      "#{count} telemetry events of the pool #{inspect(pool)} were dropped: #{@most} others waited " <>
        "for handlers that are slow"
    )
  end
end
