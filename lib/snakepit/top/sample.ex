defmodule Snakepit.Top.Sample do
  @moduledoc false
  # What `mix snakepit.top` and `Snakepit.LiveDashboard` show of a node, at one moment. Runs on that node.

  alias Snakepit.Pool.{Diagnostics, Registry}
  alias Snakepit.Telemetry
  alias Snakepit.Top.Collector

  @doc "The pools of this node, and the last errors that a collector has kept, if there is one."
  @spec take(pid | nil) :: map
  def take(collector) do
    %{
      node: node(),
      at: System.monotonic_time(:millisecond),
      time: System.os_time(:second),
      telemetry: Telemetry.available?(),
      errors: if(collector, do: Collector.read(collector), else: []),
      pools:
        Registry.names()
        # A worker that does not answer is waited for.
        |> Task.async_stream(&pool/1, max_concurrency: 32, timeout: :infinity)
        |> Enum.map(fn {:ok, pool} -> pool end)
    }
  end

  defp pool(name) do
    with {:ok, stats} <- Diagnostics.stats(name),
         {:ok, workers} <- Diagnostics.list_workers(name) do
      %{name: name, stats: stats, workers: workers, error: nil}
    else
      {:error, error} -> %{name: name, error: Exception.message(error)}
    end
  end
end
