defmodule Snakepit.Config.Eject do
  @moduledoc false
  # The option `:eject` of a remote pool: when an endpoint gets no calls for a while.

  @defaults [failures: 5, for: 10_000, at_most: 0.5]

  @doc "Whether it is a list of these options."
  @spec valid?(term) :: boolean
  def valid?(value), do: Keyword.keyword?(value) and Enum.all?(value, &option?/1)

  defp option?({:failures, number}), do: number == :infinity or number in 1..1_000_000
  defp option?({:for, millis}), do: millis in 1..1_000_000_000
  defp option?({:at_most, share}), do: is_number(share) and share >= 0 and share <= 1
  defp option?(_other), do: false

  @doc "Adds the defaults."
  @spec new(keyword) :: keyword
  def new(value), do: Keyword.merge(@defaults, value)

  @spec defaults() :: keyword
  def defaults, do: @defaults
end
