defmodule Snakepit.Test.Files do
  @moduledoc false
  # Files that a test writes into its own directory.

  @doc "Writes a file and its directories; returns its path."
  def put!(directory, name, content) do
    path = Path.join(directory, name)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, content)
    path
  end
end
