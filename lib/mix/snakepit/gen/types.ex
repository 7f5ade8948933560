defmodule Mix.Snakepit.Gen.Types do
  @moduledoc false
  # Converts Python's annotations, as `Snakepit.commands/1` returns them, to Elixir types: what an
  # argument may be so that Python accepts it. An annotation that is not known here is a `term`.

  @simple %{
    "str" => "String.t()",
    "int" => "integer",
    "float" => "number",
    "complex" => "term",
    "bool" => "boolean",
    "None" => "nil",
    "bytes" => "binary",
    "bytearray" => "binary",
    "memoryview" => "binary",
    "dict" => "map",
    "list" => "list",
    "tuple" => "list",
    "set" => "list",
    "date" => "Date.t() | String.t()",
    "datetime" => "DateTime.t() | NaiveDateTime.t() | String.t()",
    "time" => "Time.t() | String.t()",
    "Decimal" => "number | String.t()",
    "UUID" => "String.t()",
    "Path" => "String.t()"
  }

  @lists ~w(list List Sequence MutableSequence Iterable Collection tuple Tuple set Set AbstractSet
            frozenset FrozenSet deque Deque)
  @maps ~w(dict Dict Mapping MutableMapping OrderedDict defaultdict)

  @prefix ~r/\A(typing|typing_extensions|collections\.abc|collections|builtins|datetime|dt|decimal|uuid|pathlib|t)\./

  @doc "The Elixir type for an annotation, nil if there is none."
  @spec convert(String.t() | nil) :: String.t()
  def convert(annotation) do
    case types(annotation) do
      types when is_list(types) -> types |> Enum.uniq() |> union()
    end
  end

  defp union(types), do: if("term" in types, do: "term", else: Enum.join(types, " | "))

  defp types(nil), do: ["term"]

  defp types(annotation) do
    case split(annotation, "|") do
      [one] -> one |> String.trim() |> String.trim("'") |> String.trim("\"") |> of_one()
      several -> Enum.flat_map(several, &types/1)
    end
  end

  defp of_one(text) do
    text = Regex.replace(@prefix, text, "")

    case Regex.run(~r/\A([\w.]+)(?:\[(.*)\])?\z/s, text) do
      [_, name] -> plain(name)
      [_, name, args] -> generic(name, split(args, ","))
      nil -> ["term"]
    end
  end

  defp plain(name) when name in @maps, do: ["map"]
  defp plain(name) when name in @lists, do: ["list"]
  defp plain(name), do: @simple |> Map.get(name, "term") |> String.split(" | ")

  defp generic("Optional", [type]), do: types(type) ++ ["nil"]
  defp generic("Union", all), do: Enum.flat_map(all, &types/1)
  defp generic("Annotated", [type | _]), do: types(type)
  defp generic("Literal", values), do: Enum.map(values, &literal(String.trim(&1)))
  defp generic(name, _types) when name in @maps, do: ["map"]

  defp generic(name, all) when name in @lists do
    items = for type <- all, String.trim(type) != "...", do: type
    ["[#{items |> Enum.flat_map(&types/1) |> Enum.uniq() |> union()}]"]
  end

  defp generic(_name, _types), do: ["term"]

  defp literal("None"), do: "nil"
  defp literal(value) when value in ["True", "False"], do: String.downcase(value)

  defp literal(value) do
    cond do
      value =~ ~r/\A-?\d+\z/ -> value
      value =~ ~r/\A['"]/ -> "String.t()"
      true -> "term"
    end
  end

  # Splits where no bracket or quote is open.
  defp split(text, separator), do: split(String.graphemes(text), separator, 0, nil, [], [])

  defp split([], _separator, _depth, _quote, part, parts),
    do: Enum.reverse([joined(part) | parts])

  defp split([char | rest], separator, depth, quote, part, parts) do
    cond do
      quote == char ->
        split(rest, separator, depth, nil, [char | part], parts)

      quote ->
        split(rest, separator, depth, quote, [char | part], parts)

      char in ["'", "\""] ->
        split(rest, separator, depth, char, [char | part], parts)

      char == separator and depth == 0 ->
        split(rest, separator, 0, nil, [], [joined(part) | parts])

      true ->
        split(rest, separator, depth + depth(char), nil, [char | part], parts)
    end
  end

  defp joined(part), do: part |> Enum.reverse() |> Enum.join()

  defp depth(char) when char in ["[", "("], do: 1
  defp depth(char) when char in ["]", ")"], do: -1
  defp depth(_char), do: 0
end
