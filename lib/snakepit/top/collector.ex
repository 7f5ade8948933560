defmodule Snakepit.Top.Collector do
  @moduledoc false
  # Counts calls and keeps the last errors on the node that `mix snakepit.top` observes. It is
  # started there on demand, and ends with the process that has asked for it, however that ends.
  #
  # Its memory is bounded: a counter for each pool and class of durations, and the last errors.
  # Calls update them themselves, so that no message is sent.
  use GenServer

  @compile {:no_warn_undefined, :telemetry}

  alias Snakepit.{Error, Telemetry}

  @events for(name <- [:stop, :exception], do: [:snakepit, :call, name]) ++
            [[:snakepit, :worker, :restarted], [:snakepit, :health, :failed]]

  # How many errors to keep, and the bytes of each.
  @errors 8
  @longest 300

  # Eight classes of durations for each power of two: their bounds are 9 % apart.
  @per_power 8

  @doc "Starts it for `viewer`, a process on any node."
  @spec start(pid) :: {:ok, pid}
  def start(viewer), do: GenServer.start(__MODULE__, viewer)

  @doc """
  What it has counted since its start: for each pool the number of failed calls and of calls by
  class of duration; and the last errors, the latest first.
  """
  @spec read(pid) :: %{pools: %{atom => map}, errors: [map]}
  def read(collector), do: GenServer.call(collector, :read, :infinity)

  @doc "The duration in µs below which `share` of the calls in these classes were; nil without calls."
  @spec percentile(%{integer => non_neg_integer}, float) :: float | nil
  def percentile(classes, share) do
    total = classes |> Map.values() |> Enum.sum()

    if total > 0 do
      classes
      |> Enum.sort()
      |> Enum.reduce_while(0, fn {class, count}, before ->
        if before + count >= share * total,
          do: {:halt, {:found, class}},
          else: {:cont, before + count}
      end)
      |> then(fn {:found, class} -> :math.pow(2, (class + 1) / @per_power) end)
    end
  end

  @impl true
  def init(viewer) do
    Process.flag(:trap_exit, true)
    Process.monitor(viewer)
    table = :ets.new(__MODULE__, [:public, write_concurrency: true])

    if Telemetry.available?() do
      for event <- @events,
          do:
            :telemetry.attach(
              {__MODULE__, self(), event},
              event,
              &__MODULE__.handle_event/4,
              table
            )
    end

    {:ok, table}
  end

  @impl true
  def handle_call(:read, _from, table) do
    rows = :ets.tab2list(table)

    pools =
      Enum.reduce(rows, %{}, fn
        {{:calls, pool, class}, count}, pools ->
          update(pools, pool, &put_in(&1, [:classes, class], count))

        {{:failed, pool}, count}, pools ->
          update(pools, pool, &%{&1 | failed: count})

        _other, pools ->
          pools
      end)

    errors = for {{:error, _slot}, order, error} <- rows, do: {order, error}
    errors = errors |> Enum.sort(:desc) |> Enum.map(&elem(&1, 1))
    {:reply, %{pools: pools, errors: errors}, table}
  end

  defp update(pools, pool, fun),
    do: Map.put(pools, pool, fun.(Map.get(pools, pool, %{failed: 0, classes: %{}})))

  @impl true
  def handle_info({:DOWN, _monitor, :process, _viewer, _reason}, table),
    do: {:stop, :normal, table}

  def handle_info(_other, table), do: {:noreply, table}

  @impl true
  def terminate(_reason, _table) do
    if Telemetry.available?(),
      do: Enum.each(@events, &:telemetry.detach({__MODULE__, self(), &1}))
  end

  @doc false
  # Runs in the process of the call. The table may be gone already.
  def handle_event([:snakepit, :call, event], measurements, %{pool: pool} = metadata, table) do
    count(table, {:calls, pool, class(measurements.duration)})

    if event == :exception do
      count(table, {:failed, pool})
      keep(table, pool, "#{metadata.command}: #{describe(metadata.reason)}")
    end
  rescue
    ArgumentError -> :ok
  end

  def handle_event([:snakepit, kind, _event], _measurements, metadata, table) do
    what = if kind == :worker, do: "was restarted", else: "does not answer its health check"
    keep(table, metadata.pool, "worker #{metadata.worker_id} #{what}: #{text(metadata.why)}")
  rescue
    ArgumentError -> :ok
  end

  defp count(table, key), do: :ets.update_counter(table, key, 1, {key, 0})

  defp keep(table, pool, text) do
    order = count(table, :errors)
    error = %{at: System.os_time(:second), pool: pool, text: shorten(text)}
    :ets.insert(table, {{:error, rem(order, @errors)}, order, error})
  end

  defp class(duration) do
    micros = System.convert_time_unit(duration, :native, :microsecond)
    trunc(@per_power * :math.log2(max(micros, 1)))
  end

  defp describe(%Error{} = error), do: "#{error.reason}: #{error.message}"
  defp describe(reason), do: inspect(reason, limit: 10, printable_limit: @longest)

  defp text(why) when is_binary(why), do: why
  defp text(why), do: inspect(why, limit: 10, printable_limit: @longest)

  # One line.
  defp shorten(text) do
    text |> String.slice(0, @longest) |> String.split("\n", trim: true) |> Enum.join(" ")
  end
end
