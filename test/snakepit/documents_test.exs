defmodule Snakepit.DocumentsTest do
  # Runs the code of README.md and of every guide as it stands: see `Snakepit.Test.Snippets`.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools, only: [ways: 0]

  alias Snakepit.Test.Snippets

  @moduletag :tmp_dir

  @root Path.expand("../..", __DIR__)
  @readme Path.join(@root, "README.md")
  @guides Path.wildcard(Path.join(@root, "guides/*.{md,cheatmd}"))
  for path <- [@readme | @guides], do: @external_resource(path)

  # This guide's commands run on workers of each kind.
  @every_kind Path.join(@root, "guides/writing_commands.md")

  # The sections of these build on each other.
  @whole [
    @readme
    | Enum.map(
        ~w(getting_started.md cheatsheet.cheatmd tools.md input_streams.md),
        &Path.join(@root, "guides/#{&1}")
      )
  ]

  for path <- @whole do
    @tag path: path, blocks: Snippets.document(path)
    test Path.basename(path), %{path: path, blocks: blocks, tmp_dir: dir} do
      Snippets.run(blocks, path, dir)
    end
  end

  for path <- @guides -- [@every_kind | @whole], {title, blocks} <- Snippets.sections(path) do
    @tag path: path, blocks: blocks
    test "#{Path.basename(path)}, #{title}", %{path: path, blocks: blocks, tmp_dir: dir} do
      Snippets.run(blocks, path, dir)
    end
  end

  for {title, blocks} <- Snippets.sections(@every_kind), {kind, way} <- ways() do
    @tag blocks: blocks, kind: kind, way: way
    test "writing_commands.md, #{title}, on #{kind}",
         %{blocks: blocks, kind: kind, way: way} = test do
      # Over stdin and stdout there are no streams.
      blocks =
        for {lang, code} <- blocks,
            kind != :Stdio or lang != "elixir" or not String.contains?(code, "stream"),
            do: {lang, code}

      Snippets.run(blocks, @every_kind, test.tmp_dir, way)
    end
  end
end
