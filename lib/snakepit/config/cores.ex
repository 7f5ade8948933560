defmodule Snakepit.Config.Cores do
  @moduledoc false
  # The cores of the option `:cpu_affinity`: a list of cores for each slot.

  alias Snakepit.Error

  # As a text such as `0-3,8`.
  @online "/sys/devices/system/cpu/online"

  @doc "Returns the cores of the worker in a slot, or nil."
  @spec of_slot([[non_neg_integer]] | nil, non_neg_integer) :: [non_neg_integer] | nil
  def of_slot(nil, _slot), do: nil
  def of_slot(lists, slot), do: Enum.at(lists, rem(slot, length(lists)))

  @doc "Checks that this machine has the cores."
  @spec check([[non_neg_integer]] | nil) :: :ok | {:error, Error.t()}
  def check(nil), do: :ok

  def check(lists) do
    case {:os.type(), File.read(@online)} do
      {{:unix, :linux}, {:ok, online}} -> check(lists, String.trim(online))
      {{:unix, :linux}, _unknown} -> :ok
      _other -> invalid("works on Linux only")
    end
  end

  defp check(lists, online) do
    case lists |> Enum.concat() |> Enum.reject(&online?(&1, online)) do
      [] -> :ok
      [core | _] -> invalid("names the core #{core}; the cores of this machine are #{online}")
    end
  end

  defp online?(core, online) do
    online
    |> String.split(",")
    |> Enum.any?(fn range ->
      numbers = range |> String.split("-") |> Enum.map(&String.to_integer/1)
      core in List.first(numbers)..List.last(numbers)
    end)
  end

  defp invalid(problem),
    do: {:error, %Error{reason: :invalid_options, message: "the option :cpu_affinity #{problem}"}}
end
