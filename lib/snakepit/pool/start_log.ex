defmodule Snakepit.Pool.StartLog do
  @moduledoc false
  # Logs the failures of a pool's workers: each reason in full once, and then one line per attempt
  # that fails for the same reason, for all workers together.

  require Logger

  # How many reasons are distinguished; with more, the log starts over.
  @most 50
  @line 200

  def new, do: %{}

  @doc "Logs a failed attempt, and returns the updated log."
  def failed(seen, level, id, message, attempt, wait) do
    reason = reason(id, message)
    count = Map.get(seen, reason, 0) + 1
    next = "next attempt in #{wait / 1000} s"

    if count == 1 do
      Logger.log(level, "#{message}\n(#{next})")
    else
      Logger.warning(
        "#{first_line(message)} (attempt #{attempt}; the same reason as before, " <>
          "#{count} times now; #{next})"
      )
    end

    if map_size(seen) < @most, do: Map.put(seen, reason, count), else: %{reason => count}
  end

  # Process ids, addresses and times differ even if the reason is the same.
  defp reason(id, message),
    do: message |> String.replace(id, "") |> String.replace(~r/0x[0-9a-f]+|\d+/, "0")

  defp first_line(message) do
    line = message |> String.split("\n", parts: 2) |> hd()
    line |> String.replace_suffix("; its last output:", "") |> String.slice(0, @line)
  end
end
