defmodule Mix.Snakepit.Files do
  @moduledoc false
  # A running system may have the old file mapped, and another `mix compile` may run at the same
  # time: a file is replaced as a whole, never written into.

  def write!(path, content, mode \\ 0o644) do
    new = "#{path}.#{System.pid()}-#{System.unique_integer([:positive])}.new"
    File.mkdir_p!(Path.dirname(path))

    try do
      File.write!(new, content)
      File.chmod!(new, mode)
      File.rename!(new, path)
    after
      File.rm(new)
    end
  end

  # Makes `target` have the files of `source` that match a pattern, and no others; returns whether
  # it has changed anything. The times of files say nothing: those of a package are all equal.
  def mirror!(source, target, pattern) do
    names = names(source, pattern)
    strays = names(target, pattern) -- names
    for name <- strays, do: File.rm!(Path.join(target, name))

    changed =
      for name <- names,
          content = File.read!(Path.join(source, name)),
          File.read(Path.join(target, name)) != {:ok, content},
          do: write!(Path.join(target, name), content)

    strays != [] or changed != []
  end

  defp names(directory, pattern),
    do:
      for(
        path <- Path.wildcard(Path.join(directory, pattern)),
        do: Path.relative_to(path, directory)
      )
end
