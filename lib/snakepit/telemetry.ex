defmodule Snakepit.Telemetry do
  @moduledoc """
  The events that Snakepit emits through `:telemetry`, where the application has it.

      :telemetry.attach("log", [:snakepit, :call, :cancelled], &MyApp.handle_event/4, nil)

  ## `[:snakepit, :call, :cancelled]`

  The work of a call in Python has ended after the call itself had: halted, cancelled, past its
  deadline, or its caller dead. Until then the call held its place on the worker.

    * measurements: `:duration` from the call's end to its work's, in native time units
    * metadata: `:how`, `:command`, `:request_id`, `:pool`, `:worker_id`

  `:how` is `:stopped` (the handler returned or raised by itself), `:closed` (its generator was
  closed, its task cancelled), `:killed` (it went on past `:kill_grace`, or the worker was lost) or
  `:unknown` (the server has stopped it, but does not tell how).
  """

  @compile {:no_warn_undefined, :telemetry}

  @cancelled [:snakepit, :call, :cancelled]

  @doc "Every event, for `:telemetry.attach_many/4`."
  @spec events() :: [[atom]]
  def events, do: [@cancelled]

  @doc false
  def call_cancelled(duration, metadata), do: emit(@cancelled, %{duration: duration}, metadata)

  defp emit(event, measurements, metadata) do
    if function_exported?(:telemetry, :execute, 3),
      do: :telemetry.execute(event, measurements, metadata),
      else: :ok
  end
end
