defmodule Snakepit.Pool.StartLog do
  @moduledoc false
  # What a pool logs of workers that fail: each reason whole once, and one line for each attempt after
  # that fails for the same reason, whichever worker it is of.

  require Logger

  # So many reasons are told apart; with more the pool begins anew.
  @most 50
  @line 200

  def new, do: %{}

  @doc "Logs a failed attempt, and returns the log with it."
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

  # Process ids, addresses and times differ where the reason does not.
  defp reason(id, message),
    do: message |> String.replace(id, "") |> String.replace(~r/0x[0-9a-f]+|\d+/, "0")

  defp first_line(message) do
    line = message |> String.split("\n", parts: 2) |> hd()
    line |> String.replace_suffix("; its last output:", "") |> String.slice(0, @line)
  end
end
