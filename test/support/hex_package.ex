defmodule Snakepit.Test.HexPackage do
  @moduledoc false
  # The files that `mix hex.build` would put into the package. Hex itself is not needed.

  @doc "Returns the paths, by the rules of Hex: directories with all that is in them, without what is excluded."
  def files do
    excluded = package()[:exclude_patterns]

    for pattern <- package()[:files],
        path <- Path.wildcard(pattern, match_dot: true),
        file <-
          if(File.dir?(path), do: Path.wildcard(path <> "/**", match_dot: true), else: [path]),
        File.regular?(file),
        not Enum.any?(excluded, &(file =~ &1)),
        uniq: true,
        do: file
  end

  @doc "Unpacks the package into a directory."
  def unpack!(directory) do
    for file <- files() do
      path = Path.join(directory, file)
      File.mkdir_p!(Path.dirname(path))
      File.cp!(file, path)
      # All files of a package have the same time.
      File.touch!(path, 946_684_800)
    end
  end

  def package, do: Mix.Project.config()[:package]
end
