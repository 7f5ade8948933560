defmodule Snakepit.Config.Env do
  @moduledoc false
  # The environment variables of a pool's workers, or the function that returns those of the worker in
  # a slot. This struct hides their values in inspected terms, such as crash reports and child
  # specifications of supervisors: only names are shown.

  alias Snakepit.Error.Cause

  defstruct given: %{}

  @type t :: %__MODULE__{given: map | (non_neg_integer -> map) | {module, atom, [term]}}

  @wanted "a map or list of names and values, all strings; nil unsets a variable"
  @function "a function of the worker's slot, or {module, function, arguments}"

  @doc "Hides the values of the given variables, which may be invalid."
  def wrap(%__MODULE__{} = env), do: env
  def wrap(given), do: %__MODULE__{given: given}

  @doc "Converts checked variables to a map. A function stays one."
  def new(env) do
    case wrap(env) do
      %{given: given} = env when is_function(given) or is_tuple(given) -> env
      %{given: given} -> %__MODULE__{given: Map.new(given)}
    end
  end

  @doc """
  Returns the variables of the worker in a slot, or what is wrong with what the function has done. The
  message has no value.
  """
  @spec of_slot(t, non_neg_integer) :: {:ok, t} | {:error, String.t()}
  def of_slot(%__MODULE__{given: function} = env, slot)
      when is_function(function) or is_tuple(function) do
    case called(function, slot) do
      {:ok, given} ->
        case variables_problem(given) do
          nil -> {:ok, %{env | given: Map.new(given)}}
          problem -> {:error, "returned #{problem}"}
        end

      {:error, why} ->
        {:error, why}
    end
    |> named(function, slot)
  end

  def of_slot(env, _slot), do: {:ok, env}

  defp called({module, name, arguments}, slot),
    do: called(fn slot -> apply(module, name, [slot | arguments]) end, slot)

  defp called(function, slot) do
    {:ok, function.(slot)}
  catch
    kind, reason -> {:error, Cause.caught(kind, reason, __STACKTRACE__)}
  end

  defp named({:ok, env}, _function, _slot), do: {:ok, env}

  defp named({:error, why}, {module, name, arguments}, slot) do
    function = "#{inspect(module)}.#{name}/#{length(arguments) + 1}"
    {:error, "#{function} of the option :env, called for the slot #{slot}, #{why}"}
  end

  defp named({:error, why}, _function, slot),
    do: {:error, "the function of the option :env, called for the slot #{slot}, #{why}"}

  @doc "Returns what is invalid, without any value; nil if nothing is. A function is not called."
  @spec problem(term) :: String.t() | nil
  def problem(%__MODULE__{given: given}), do: problem(given)
  def problem(function) when is_function(function, 1), do: nil

  def problem(function) when is_function(function),
    do: "a function that does not take one argument, the slot"

  def problem({module, name, arguments}) do
    cond do
      not (is_atom(module) and is_atom(name) and is_list(arguments) and
               not List.improper?(arguments)) ->
        "a tuple; expected #{@wanted}; or #{@function}"

      not (Code.ensure_loaded?(module) and
               function_exported?(module, name, length(arguments) + 1)) ->
        function = "#{inspect(module)}.#{name}/#{length(arguments) + 1}"

        "{module, function, arguments}, but there is no function #{function}: the slot is its first argument"

      true ->
        nil
    end
  end

  def problem(given), do: variables_problem(given)

  @doc "Like `problem/1`, for what cannot be a function."
  @spec variables_problem(term) :: String.t() | nil
  def variables_problem(given) when is_map(given) and not is_struct(given),
    do: Enum.find_value(given, &wrong/1)

  def variables_problem(given) when is_list(given) do
    if List.improper?(given),
      do: "an improper list; expected #{@wanted}",
      else: Enum.find_value(given, &wrong/1)
  end

  def variables_problem(_given),
    do: "neither a map nor a list; expected #{@wanted}; or #{@function}"

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

    def inspect(%{given: given}, _options) when is_function(given) or is_tuple(given),
      do: "#Snakepit.Config.Env<a function of the slot>"

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
