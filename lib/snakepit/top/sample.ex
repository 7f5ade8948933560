defmodule Snakepit.Top.Sample do
  @moduledoc false
  # What `mix snakepit.top` shows of a node, at one moment. Runs on that node.

  alias Snakepit.Pool.{Diagnostics, Registry}
  alias Snakepit.Telemetry
  alias Snakepit.Top.Collector

  @doc "The pools of this node, and what the collector has counted."
  @spec take(pid) :: map
  def take(collector) do
    %{pools: calls, errors: errors} = Collector.read(collector)

    %{
      node: node(),
      at: System.monotonic_time(:millisecond),
      time: System.os_time(:second),
      telemetry: Telemetry.available?(),
      errors: errors,
      pools:
        Registry.names()
        # A worker that does not answer is waited for.
        |> Task.async_stream(&pool(&1, calls), max_concurrency: 32, timeout: :infinity)
        |> Enum.map(fn {:ok, pool} -> pool end)
    }
  end

  defp pool(name, calls) do
    with {:ok, stats} <- Diagnostics.stats(name),
         {:ok, workers} <- Diagnostics.list_workers(name) do
      calls = Map.get(calls, name, %{failed: 0, classes: %{}})
      %{name: name, stats: stats, workers: workers, calls: calls, error: nil}
    else
      {:error, error} -> %{name: name, error: Exception.message(error)}
    end
  end
end
