defmodule Snakepit.Telemetry.CallLogger do
  @moduledoc false
  # Logs calls that fail, for applications that want it.

  require Logger

  alias Snakepit.Config.Options
  alias Snakepit.Error

  @compile {:no_warn_undefined, :telemetry}

  @event [:snakepit, :call, :exception]
  @options %{level: {:one_of, [:debug, :info, :warning, :error]}, pool: :name}

  @spec attach(keyword) :: :ok | {:error, Error.t()}
  def attach(options) do
    with :ok <- Options.check(options, @options) do
      config = %{level: Keyword.get(options, :level, :error), pool: options[:pool]}
      detach()

      case :telemetry.attach(__MODULE__, @event, &__MODULE__.handle_event/4, config) do
        :ok -> :ok
        # Another process has attached it meanwhile.
        {:error, :already_exists} -> :ok
      end
    end
  end

  @spec detach() :: :ok
  def detach do
    :telemetry.detach(__MODULE__)
    :ok
  end

  @doc false
  def handle_event(@event, _measurements, %{pool: pool}, %{pool: only})
      when only != nil and only != pool,
      do: :ok

  def handle_event(@event, measurements, metadata, config) do
    Logger.log(config.level, fn -> text(measurements, metadata) end,
      pool: metadata.pool,
      worker_id: metadata.worker_id,
      request_id: metadata.request_id
    )
  end

  defp text(%{duration: duration}, metadata) do
    ms = System.convert_time_unit(duration, :native, :microsecond) / 1000
    what = if metadata.streaming, do: "stream", else: "call"

    "#{what} #{shown(metadata.command)} of #{inspect(metadata.pool)} failed after #{Float.round(ms, 1)} ms " <>
      "[#{metadata.request_id}]: #{describe(metadata)}"
  end

  @doc "A command as text. It may be anything: then it is the error."
  @spec shown(term) :: String.t()
  def shown(command) do
    if is_binary(command) and String.valid?(command),
      do: String.slice(command, 0, 200),
      else: inspect(command, limit: 5, printable_limit: 200)
  end

  # Its message names the command, the pool and so on as well.
  defp describe(%{reason: %Error{} = error}), do: "#{error.reason}: #{error.message}"

  defp describe(%{kind: kind, reason: reason, stacktrace: stacktrace}),
    do: Exception.format(kind, reason, stacktrace)
end
