defmodule Snakepit.Config.Env do
  @moduledoc false
  # The environment variables of a pool's workers. This struct hides their values in inspected
  # terms, such as crash reports and child specifications of supervisors: only names are shown.

  defstruct given: %{}

  @type t :: %__MODULE__{given: map}

  @wanted "a map or list of names and values, all strings; nil unsets a variable"

  @doc "Hides the values of the given variables, which may be invalid."
  def wrap(%__MODULE__{} = env), do: env
  def wrap(given), do: %__MODULE__{given: given}

  @doc "Converts checked variables to a map."
  def new(env), do: %__MODULE__{given: Map.new(wrap(env).given)}

  @doc "Returns what is invalid, without any value; nil if nothing is."
  @spec problem(term) :: String.t() | nil
  def problem(%__MODULE__{given: given}), do: problem(given)

  def problem(given) when is_map(given) and not is_struct(given),
    do: Enum.find_value(given, &wrong/1)

  def problem(given) when is_list(given) do
    if List.improper?(given),
      do: "an improper list; expected #{@wanted}",
      else: Enum.find_value(given, &wrong/1)
  end

  def problem(_given), do: "neither a map nor a list; expected #{@wanted}"

  @doc "Removes the values from a text, if they are long enough to be secrets."
  @spec redact(t, String.t()) :: String.t()
  def redact(env, text) do
    for {_name, value} when is_binary(value) and byte_size(value) > 3 <- env,
        shown <- Enum.uniq([value, value |> inspect() |> String.slice(1..-2//1)]),
        reduce: text,
        do: (text -> String.replace(text, shown, "[hidden]"))
  end

  defp wrong({name, value}) do
    cond do
      not is_binary(name) ->
        "the name #{inspect(name)}; expected #{@wanted}"

      name == "" ->
        "an empty name; expected #{@wanted}"

      String.contains?(name, ["=", <<0>>]) ->
        "the name #{inspect(name, binaries: :as_strings)}; a name cannot have \"=\" or NUL"

      not (is_binary(value) or value == nil) ->
        "a value of #{inspect(name)} that is not a string; expected #{@wanted}"

      is_binary(value) and String.contains?(value, <<0>>) ->
        "a value of #{inspect(name)} with a NUL, which an environment variable cannot have"

      true ->
        nil
    end
  end

  defp wrong(_other), do: "an entry that is not a pair; expected #{@wanted}"

  defimpl Inspect do
    import Inspect.Algebra

    def inspect(%{given: given}, options) do
      names = for {name, _value} <- entries(given), is_binary(name), do: name
      concat(["#Snakepit.Config.Env<", to_doc(names, options), ">"])
    end

    defp entries(given) when is_map(given) and not is_struct(given), do: given
    defp entries([entry | rest]), do: [entry | entries(rest)]
    defp entries(_other), do: []
  end

  defimpl Enumerable do
    def count(env), do: Enumerable.count(env.given)
    def member?(env, pair), do: Enumerable.member?(env.given, pair)
    def slice(env), do: Enumerable.slice(env.given)
    def reduce(env, acc, fun), do: Enumerable.reduce(env.given, acc, fun)
  end
end
