defmodule Snakepit.Tracing do
  @moduledoc false
  # Sends the context of the current span of OpenTelemetry with a call, if the application has its API. That is found
  # when a pool or a connection starts, and is no dependency.

  @compile {:no_warn_undefined, [:otel_propagator_text_map, :otel_ctx]}

  @propagator :otel_propagator_trace_context

  @spec available?() :: boolean
  def available?, do: Code.ensure_loaded?(:otel_propagator_text_map) and loaded?()

  # To load a module that is not there is too much for a call.
  defp loaded?, do: function_exported?(:otel_propagator_text_map, :inject, 2)

  @doc "Returns a call's options with the context, unless they have one or the calling process is in no span."
  @spec with_context(map, map) :: map
  def with_context(%{tracing: false}, options), do: options
  def with_context(_pool, options), do: put_context(options)

  @doc "As `with_context/2`, for a call over a channel, once `available?/0` has looked for the API."
  @spec with_context(map) :: map
  def with_context(options), do: if(loaded?(), do: put_context(options), else: options)

  @doc "Returns the calling process's context, for `attach/1` in another process. nil without the API."
  @spec current() :: term
  def current, do: if(loaded?(), do: :otel_ctx.get_current())

  @doc "Has the calling process be in a context."
  @spec attach(term) :: any
  def attach(nil), do: nil
  def attach(context), do: :otel_ctx.attach(context)

  defp put_context(%{traceparent: nil} = options),
    do: Enum.reduce(:otel_propagator_text_map.inject(@propagator, []), options, &put/2)

  defp put_context(options), do: options

  defp put({"traceparent", value}, options), do: %{options | traceparent: value}
  # The caller's own metadata count before it.
  defp put({"tracestate", value}, options), do: %{options | tracestate: value}
  defp put(_other, options), do: options
end
