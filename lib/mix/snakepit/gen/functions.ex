defmodule Mix.Snakepit.Gen.Functions do
  @moduledoc false
  # The functions of a wrapper module, generated from the commands of its pool, and the part of its
  # file in which they are.

  alias Mix.Snakepit.Gen.Types

  @first "# Written by `mix snakepit.gen.adapter`, and written anew each time: change nothing from here on."
  @last "# Up to here."

  # Names of functions that a module cannot define, or that the wrapper uses.
  @reserved ~w(after and catch def defmodule do else end false fn in nil not or rescue true unquote when
               __info__ behaviour_info child_spec module_info)

  @doc "The functions of these commands as the part of a file at this path, formatted as the project wants it."
  @spec generate([map], Path.t()) :: String.t()
  def generate(commands, path) do
    functions = Enum.map_join(commands, "\n\n", &function/1)
    # The file's own options of the formatter: `mix format` must not change the result.
    {format, _options} = Mix.Tasks.Format.formatter_for_file(path)

    "defmodule Wrapper do\n#{@first}\n\n#{functions}\n\n#{@last}\nend\n"
    |> format.()
    |> String.trim()
    |> String.split("\n")
    |> Enum.slice(1..-2//1)
    |> Enum.join("\n")
  end

  @doc "Splits the text of a file: what comes before the generated part, the part, what follows."
  @spec split(String.t()) :: {String.t(), String.t(), String.t()} | :error
  def split(text) do
    with [before, rest] <- String.split(text, ~r/^ *#{Regex.escape(@first)}\n/m, parts: 2),
         [_part, behind] <- String.split(rest, ~r/^ *#{Regex.escape(@last)}\n/m, parts: 2) do
      from = byte_size(before)
      part = binary_part(text, from, byte_size(text) - from - byte_size(behind))
      {before, String.trim_trailing(part), behind}
    else
      _ -> :error
    end
  end

  @doc "Puts the part into the text of a file that has one already."
  @spec replace(String.t(), String.t()) :: String.t()
  def replace(text, part) do
    {before, _part, behind} = split(text)
    before <> part <> "\n" <> behind
  end

  defp function(%{name: name} = command) do
    if name =~ ~r/\A[a-z_][a-zA-Z0-9_]*\z/ and name not in @reserved,
      do: [doc(command), spec(command), definition(command)] |> Enum.join("\n"),
      else:
        "# No function can have the name of the command #{inspect(name)}: call it with `Snakepit.execute/3`."
  end

  defp doc(command) do
    doc = if command.doc, do: [command.doc, "\n\n"], else: []
    entry = if command.streams, do: "Snakepit.stream/3", else: "Snakepit.execute/3"
    python = "In Python `#{command.signature}`. The options are those of `#{entry}`."
    # Nothing may end the text, or be evaluated in it.
    text = [doc, python] |> IO.iodata_to_binary() |> String.replace(~s("""), "'''")
    ~s(@doc ~S"""\n#{text}\n""")
  end

  defp spec(command) do
    result =
      if command.streams, do: "Enumerable.t()", else: "{:ok, map} | {:error, Snakepit.Error.t()}"

    "@spec #{command.name}(#{arguments(command.parameters)}, keyword) :: #{result}"
  end

  # A worker may not describe them, and `**rest` takes any.
  defp arguments(nil), do: "keyword"
  defp arguments([]), do: "[]"

  defp arguments(parameters) do
    if Enum.any?(parameters, &String.starts_with?(&1.name, "*")),
      do: "keyword",
      else: "[" <> Enum.map_join(parameters, ", ", &argument/1) <> "]"
  end

  defp argument(parameter) do
    key = Macro.inspect_atom(:key, String.to_atom(parameter.name))
    "#{key} #{Types.convert(parameter.type)}"
  end

  defp definition(command) do
    required? = Enum.any?(command.parameters || [], & &1.required)
    args = if required?, do: "args", else: "args \\\\ []"
    call = if command.streams, do: "stream", else: "execute"

    """
    def #{command.name}(#{args}, options \\\\ []),
      do: Snakepit.#{call}(#{inspect(command.name)}, args, Keyword.put_new(options, :pool, __MODULE__))
    """
  end

  @doc "The lines in which two texts differ, each with `-` or `+` in front."
  @spec diff(String.t(), String.t()) :: String.t()
  def diff(old, new) do
    for {how, lines} <- List.myers_difference(String.split(old, "\n"), String.split(new, "\n")),
        how != :eq,
        line <- lines do
      if(how == :del, do: "-", else: "+") <> line
    end
    |> Enum.join("\n")
  end
end
