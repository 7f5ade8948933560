defmodule Snakepit.Pool.Numbers do
  @moduledoc false
  # What the calls of a pool took and how they ended. The native library counts: results and streams of gRPC
  # workers by itself, everything else when it is told here.

  alias Snakepit.{Error, Native, Transport}

  @percentiles [:p50, :p90, :p99]

  @doc "Counts a call with a result, for a transport whose calls the native library does not see."
  @spec succeeded(reference, String.t(), Transport.meta()) :: :ok
  def succeeded(native, command, meta), do: count(native, command, nil, meta)

  @doc "Counts a call, or a stream that could not be started, with its error."
  @spec failed(reference | nil, String.t(), Error.t(), Transport.meta() | nil) :: :ok
  # A pool on another node counts by itself.
  def failed(nil, _command, _error, _meta), do: :ok

  # A command may be anything if the error is that it is no text.
  def failed(native, command, %{reason: reason}, meta) when is_binary(command),
    do: count(native, command, reason, meta)

  def failed(_native, _command, _error, _meta), do: :ok

  defp count(native, command, reason, meta) do
    Native.pool_count(native, %{
      command: command,
      error: reason,
      queue_us: meta && meta.worker_id && meta.queue_us,
      execution_us: meta && meta.worker_id && meta.execution_us,
      batch_size: Map.get(meta || %{}, :batch_size, 0)
    })
  rescue
    # The library is not loaded, or the command is not UTF-8.
    _error in [ErlangError, ArgumentError] -> :ok
  end

  @doc "Counts an ask of a command for a tool, with its time in native units."
  @spec asked(reference, String.t(), boolean, integer) :: :ok
  def asked(native, command, failed, time) do
    time = System.convert_time_unit(time, :native, :microsecond)
    Native.pool_count_ask(native, command, failed, time)
  rescue
    _error in [ErlangError, ArgumentError] -> :ok
  end

  @doc "The part of `Snakepit.stats/1` that is about calls."
  @spec stats(reference) :: map
  def stats(native) do
    numbers = Native.pool_numbers(native)
    commands = Map.new(numbers.commands, &{&1.name, command(&1)})

    errors =
      for %{errors: errors} <- numbers.commands, {reason, count} <- errors, reduce: %{} do
        counts -> Map.update(counts, reason, count, &(&1 + count))
      end

    %{
      calls: numbers.commands |> Enum.map(& &1.calls) |> Enum.sum(),
      errors_by_reason: errors,
      asks: commands |> Map.values() |> Enum.map(& &1.asks) |> Enum.sum(),
      commands: commands,
      last_minute: %{
        calls: numbers.calls,
        queue_us: percentiles(numbers.queue),
        execution_us: percentiles(numbers.execution),
        ask_us: percentiles(numbers.asks)
      }
    }
  end

  # A batch of n calls is counted with each of them.
  defp command(numbers) do
    %{
      calls: numbers.calls,
      errors: Map.new(numbers.errors),
      asks: numbers.asks,
      failed_asks: numbers.failed_asks,
      batch_sizes:
        for({size, calls} <- numbers.batched, into: %{}, do: {size, ceil(calls / size)})
    }
  end

  defp percentiles(nil), do: Map.new(@percentiles, &{&1, nil})
  defp percentiles(values), do: @percentiles |> Enum.zip(values) |> Map.new()
end
