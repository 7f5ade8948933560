defmodule Snakepit.NotebooksTest do
  # Runs the Elixir cells of guides/notebooks/ in order. What needs a package that is not installed
  # is not run: `Mix.install`, and the cells of Kino, VegaLite and Explorer.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Snakepit.Test.Snippets

  @notebooks Path.wildcard(Path.expand("../../guides/notebooks/*.livemd", __DIR__))
  for path <- @notebooks, do: @external_resource(path)

  @absent ~r/Mix\.install|\bKino\b|\bVegaLite\b|\bExplorer\b/

  for path <- @notebooks do
    @tag :tmp_dir
    @tag path: path
    test Path.basename(path), %{path: path, tmp_dir: dir} do
      # Where the cells write their Python files.
      Snakepit.Test.Environment.put([{"TMPDIR", dir}])
      cells = for {"elixir", cell} <- Snippets.document(path), do: cell
      {absent, cells} = Enum.split_with(cells, &(&1 =~ @absent))
      for cell <- absent, do: Code.string_to_quoted!(cell, file: path)
      assert length(cells) >= 3

      # The pools end with their process, which is that of the notebook.
      task = Task.async(fn -> capture_io(fn -> Snippets.evaluate(cells, path) end) end)
      Task.await(task, 10 * Snakepit.Test.Pools.patience())
    end

    test "#{Path.basename(path)} has a badge that leads to it" do
      name = unquote(Path.basename(path))
      text = File.read!(unquote(path))
      assert text =~ ~r"\(https://livebook\.dev/run\?url=\S+%2Fguides%2Fnotebooks%2F#{name}\)"
    end
  end
end
