defmodule Snakepit.Test.Guide do
  @moduledoc false
  # The contents of `guides/values.md`.

  @guide "guides/values.md"

  @doc "Returns the rows of the table under a heading, each a list of cells without their backticks."
  def rows(heading) do
    [_, section] = @guide |> File.read!() |> String.split("\n## #{heading}\n")
    [section | _] = String.split(section, "\n## ")

    for "| `" <> row <- String.split(section, "\n") do
      row |> String.trim_trailing("` |") |> String.split("` | `")
    end
  end
end
