defmodule Mix.Snakepit.Gen.Inject do
  @moduledoc false
  # Adds lines to files of the user's, if they have the form that Mix's generators give them.

  @doc "Adds a child, first, to the one list `children = [...]` of a module."
  @spec child(String.t(), module) :: {:ok, String.t()} | :present | :unknown
  def child(text, module) do
    lines = Regex.scan(~r/^( *)children = \[(\]?)\n/m, text, return: :index)

    case {mentions?(text, module), lines, children(text)} do
      {true, _lines, _children} ->
        :present

      {false, [[line, indent, _bracket]], {:ok, children}} ->
        {:ok, insert(text, line, indent, children, module)}

      _ ->
        :unknown
    end
  end

  @doc "Whether a file names the module, and not only one within it."
  @spec mentions?(String.t(), module) :: boolean
  def mentions?(text, module),
    do: text =~ ~r/(?<![\w.])#{Regex.escape(inspect(module))}(?![\w]|\.[A-Z])/

  defp children(text) do
    with {:ok, quoted} <- Code.string_to_quoted(text) do
      {_quoted, found} =
        Macro.prewalk(quoted, [], fn
          {:=, _, [{:children, _, _}, list]} = node, found when is_list(list) ->
            {node, [list | found]}

          node, found ->
            {node, found}
        end)

      with [children] <- found, do: {:ok, children}
    end
  end

  defp insert(text, {from, length}, {_, indent}, children, module) do
    spaces = String.duplicate(" ", indent)
    comma = if children == [], do: "", else: ","
    closed? = binary_part(text, from, length) =~ "[]"
    close = if closed?, do: "#{spaces}]\n", else: ""
    line = "#{spaces}children = [\n#{spaces}  #{inspect(module)}#{comma}\n#{close}"

    binary_part(text, 0, from) <>
      line <> binary_part(text, from + length, byte_size(text) - from - length)
  end
end
