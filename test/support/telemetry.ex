# Replaces the telemetry library, which the tests do not have: calls the attached handlers in
# turn.
unless Code.ensure_loaded?(:telemetry) do
  defmodule :telemetry do
    @moduledoc false

    @doc "Start it from a process that outlives the tests."
    def start, do: :ets.new(:telemetry, [:named_table, :public, :bag, read_concurrency: true])

    def attach(id, event, function, config) do
      if :ets.match(:telemetry, {:_, id, :_, :_}) == [] do
        :ets.insert(:telemetry, {event, id, function, config})
        :ok
      else
        {:error, :already_exists}
      end
    end

    def detach(id) do
      :ets.match_delete(:telemetry, {:_, id, :_, :_})
      :ok
    end

    def execute(event, measurements, metadata) do
      if :ets.whereis(:telemetry) != :undefined do
        for {_event, _id, function, config} <- :ets.lookup(:telemetry, event),
            do: function.(event, measurements, metadata, config)
      end

      :ok
    end
  end
end
