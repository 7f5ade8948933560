# The part of OpenTelemetry's API that Snakepit uses, which the tests do not have: writes the
# current span's context, which a test has set for its process. If the API itself is on the code
# path, the tests use it.
unless Code.ensure_loaded?(:otel_propagator_text_map) do
  defmodule :otel_propagator_text_map do
    @moduledoc false
    def inject(:otel_propagator_trace_context, carrier),
      do: Process.get(:otel_carrier, []) ++ carrier
  end

  defmodule :otel_ctx do
    @moduledoc false
    def get_current, do: Process.get(:otel_carrier, [])
    def attach(context), do: Process.put(:otel_carrier, context)
  end
end
