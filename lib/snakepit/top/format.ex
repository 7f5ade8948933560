defmodule Snakepit.Top.Format do
  @moduledoc false
  # The texts in which `mix snakepit.top` and `Snakepit.LiveDashboard` show numbers, times and workers.

  @titles ~w(worker state pid calls requests errors memory cpu up)

  @doc "The titles of the cells of `worker/1`."
  @spec titles() :: [String.t()]
  def titles, do: @titles

  @doc "A worker of `Snakepit.list_workers/1`. The first two cells are texts, all others numbers."
  @spec worker(map) :: [String.t()]
  def worker(worker) do
    [
      worker.id,
      to_string(worker.state),
      text(worker.os_pid),
      text(worker.in_flight),
      text(worker.requests),
      text(worker.errors),
      memory(worker.memory_bytes),
      if(worker.cpu_percent, do: "#{round(worker.cpu_percent)} %", else: "-"),
      uptime(worker.uptime_ms)
    ]
  end

  @doc "Why a worker is not there: the first line; nil if there is no reason."
  @spec reason(map) :: String.t() | nil
  def reason(%{error: nil}), do: nil

  def reason(%{error: error}) do
    [first | _] = error |> message() |> String.trim() |> String.split("\n")
    first
  end

  defp message(%{__exception__: true} = error), do: Exception.message(error)
  defp message(text) when is_binary(text), do: text
  defp message(other), do: inspect(other)

  @doc "The progress that a running call has reported."
  @spec progress(map) :: String.t()
  def progress(call) do
    percent = call.fraction |> Kernel.*(100) |> round() |> to_string() |> String.pad_leading(3)
    String.trim_trailing("#{call.command}  #{percent} %  #{call.message}")
  end

  @spec rate(number, String.t()) :: String.t()
  def rate(per_second, of), do: "#{Float.round(per_second / 1, 1)} #{of}/s"

  @doc "Percentiles in µs, as `Snakepit.stats/1` has them."
  @spec times(map) :: String.t()
  def times(times),
    do: Enum.map_join([:p50, :p90, :p99], "  ", &"#{&1} #{duration(Map.fetch!(times, &1))}")

  @spec memory(non_neg_integer | nil) :: String.t()
  def memory(nil), do: "-"
  def memory(bytes), do: "#{Float.round(bytes / 1_048_576, 1)} MiB"

  defp duration(nil), do: "-"
  defp duration(micros) when micros < 1000, do: "#{round(micros)} us"
  defp duration(micros) when micros < 1_000_000, do: "#{Float.round(micros / 1000, 1)} ms"
  defp duration(micros), do: "#{Float.round(micros / 1_000_000, 1)} s"

  defp uptime(nil), do: "-"
  defp uptime(ms) when ms < 60_000, do: "#{div(ms, 1000)} s"
  defp uptime(ms) when ms < 3_600_000, do: "#{div(ms, 60_000)} min"
  defp uptime(ms), do: "#{div(ms, 3_600_000)} h"

  @doc "A time in seconds of the operating system, in the time zone of this machine."
  @spec time(integer) :: String.t()
  def time(seconds) do
    {_date, {hour, minute, second}} = :calendar.system_time_to_local_time(seconds, :second)
    Enum.map_join([hour, minute, second], ":", &String.pad_leading(to_string(&1), 2, "0"))
  end

  defp text(nil), do: "-"
  defp text(value), do: to_string(value)
end
