# Stands in for the library, which the tests do without: what is attached is called in turn.
unless Code.ensure_loaded?(:telemetry) do
  defmodule :telemetry do
    @moduledoc false

    @doc "Whoever starts it has to outlive the tests."
    def start, do: :ets.new(:telemetry, [:named_table, :public, :bag, read_concurrency: true])

    def attach(id, event, function, config) do
      :ets.insert(:telemetry, {event, id, function, config})
      :ok
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
