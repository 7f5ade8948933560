# Stands in for the library, which the tests do without: what is attached is called in turn.
unless Code.ensure_loaded?(:telemetry) do
  defmodule :telemetry do
    @moduledoc false

    def attach(id, event, function, config) do
      :persistent_term.put({:telemetry, event, id}, {function, config})
    end

    def detach(id, event), do: :persistent_term.erase({:telemetry, event, id})

    def execute(event, measurements, metadata) do
      for {{:telemetry, ^event, _id}, {function, config}} <- :persistent_term.get() do
        function.(event, measurements, metadata, config)
      end

      :ok
    end
  end
end
