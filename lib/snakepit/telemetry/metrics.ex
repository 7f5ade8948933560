defmodule Snakepit.Telemetry.Metrics do
  @moduledoc false
  # Definitions of metrics as data, in the words of the library telemetry_metrics, which is no dependency.

  @milliseconds {:native, :millisecond}
  # In ms, for libraries that need the bounds of a histogram.
  @buckets [buckets: [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000]]

  @type t :: {:counter | :sum | :last_value | :distribution, String.t(), keyword}

  @spec all() :: [t]
  def all do
    [
      times("call.stop.duration", "How long successful calls took, with their wait"),
      # A stream that was halted does not have these times.
      times("call.stop.queue_time", "How long calls waited for a worker", keep: &(not &1.halted)),
      times("call.stop.execution_time", "How long calls took once they had a worker",
        keep: &(not &1.halted)
      ),
      {:counter, "snakepit.call.exception.duration",
       event_name: [:snakepit, :call, :exception],
       measurement: :duration,
       tags: [:pool, :command, :reason],
       tag_values: &__MODULE__.with_reason/1,
       description: "Calls that failed, by reason"},
      times("call.cancelled.duration", "How long commands continued after their calls had ended",
        tags: [:pool, :command, :how]
      ),
      times("ask.stop.duration", "How long tools took, by how they ended",
        tags: [:pool, :command, :tool, :outcome]
      ),
      counter(
        "ask.exception.duration",
        [:pool, :command, :tool],
        "Tools that raised, exited or took too long"
      ),
      counter("queue.full.max_queue", [:pool, :command], "Calls refused by a full queue"),
      counter("worker.restarted.attempt", [:pool], "Workers that were started again"),
      counter("worker.killed.system_time", [:pool], "Workers that were killed"),
      counter("worker.recycled.age", [:pool, :reason], "Workers that were recycled, by reason"),
      times("worker.ready.duration", "How long workers took to start", tags: [:pool]),
      counter("health.failed.missed", [:pool], "Health checks without an answer"),
      {:last_value, "snakepit.health.stuck.python_stuck_ms",
       event_name: [:snakepit, :health, :stuck],
       measurement: :python_stuck_ms,
       tags: [:pool, :worker_id],
       description: "How long a command has held Python's lock, in ms"},
      counter("session.created.system_time", [:pool], "Sessions that began"),
      counter("session.lost.system_time", [:pool], "Sessions that were lost with their worker"),
      {:counter, "snakepit.python.event.count",
       event_name: [:snakepit, :python, :event],
       measurement: &__MODULE__.one/1,
       tags: [:pool, :command, :name],
       description: "Events that commands have reported"}
    ]
  end

  defp times(name, description, options \\ []) do
    {event, measurement} = split(name)

    defaults = [
      event_name: event,
      measurement: measurement,
      unit: @milliseconds,
      tags: [:pool, :command],
      reporter_options: @buckets,
      description: description
    ]

    {:distribution, "snakepit." <> name, Keyword.merge(defaults, options)}
  end

  defp counter(name, tags, description) do
    {event, measurement} = split(name)
    options = [event_name: event, measurement: measurement, tags: tags, description: description]
    {:counter, "snakepit." <> name, options}
  end

  # The names are those above.
  defp split(name) do
    {event, [measurement]} =
      name |> String.split(".") |> Enum.map(&String.to_atom/1) |> Enum.split(-1)

    {[:snakepit | event], measurement}
  end

  @doc "Makes the reason of an exception a label: that of a `Snakepit.Error`, or `:raised`."
  @spec with_reason(map) :: map
  def with_reason(%{reason: %Snakepit.Error{reason: reason}} = metadata),
    do: %{metadata | reason: reason}

  def with_reason(metadata), do: %{metadata | reason: :raised}

  @doc "Counts an event whose measurements have the names that Python gave."
  @spec one(map) :: 1
  def one(_measurements), do: 1
end
