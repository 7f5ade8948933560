defmodule Snakepit.Top.Collector do
  @moduledoc false
  # Keeps the last errors on the node that `mix snakepit.top` or `Snakepit.LiveDashboard` observes. It is
  # started there on demand, and ends with the process that has asked for it, however that ends.
  #
  # Its memory is bounded. Calls that fail write to it themselves, so that no message is sent.
  use GenServer

  @compile {:no_warn_undefined, :telemetry}

  alias Snakepit.{Error, Telemetry}
  alias Snakepit.Telemetry.CallLogger

  @events [
    [:snakepit, :call, :exception],
    [:snakepit, :worker, :restarted],
    [:snakepit, :endpoint, :ejected],
    [:snakepit, :endpoint, :lost],
    [:snakepit, :health, :failed]
  ]

  # How many errors to keep, and the bytes of each.
  @errors 8
  @longest 300

  @doc "Starts it for `viewer`, a process on any node."
  @spec start(pid) :: {:ok, pid}
  def start(viewer), do: GenServer.start(__MODULE__, viewer)

  @doc "The last errors since its start, the latest first."
  @spec read(pid) :: [map]
  def read(collector), do: GenServer.call(collector, :read, :infinity)

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
    errors = for {{:error, _slot}, order, error} <- :ets.tab2list(table), do: {order, error}
    {:reply, errors |> Enum.sort(:desc) |> Enum.map(&elem(&1, 1)), table}
  end

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
  def handle_event([:snakepit, :call, :exception], _measurements, %{pool: pool} = metadata, table) do
    keep(table, pool, "#{CallLogger.shown(metadata.command)}: #{describe(metadata.reason)}")
  rescue
    ArgumentError -> :ok
  end

  def handle_event([:snakepit, kind, event], _measurements, metadata, table) do
    what = what(kind, event)
    keep(table, metadata.pool, "worker #{metadata.worker_id} #{what}: #{text(metadata.why)}")
  rescue
    ArgumentError -> :ok
  end

  defp what(:worker, :restarted), do: "was restarted"
  defp what(:health, :failed), do: "does not answer its health check"
  defp what(:endpoint, :ejected), do: "takes no calls for a while"
  defp what(:endpoint, :lost), do: "was lost"

  defp keep(table, pool, text) do
    order = :ets.update_counter(table, :errors, 1, {:errors, 0})
    error = %{at: System.os_time(:second), pool: pool, text: shorten(text)}
    :ets.insert(table, {{:error, rem(order, @errors)}, order, error})
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
