defmodule Mix.Snakepit.Stamp do
  @moduledoc false
  # A text file that says what installed files are, and has the checksum of each: a file that another
  # machine, version or build has left there is recognized, however old it is.

  alias Mix.Snakepit.{Archive, Files}

  # The reason why the files must be installed again, in words, or nil.
  def stale(path, facts, files) do
    case File.read(path) do
      {:ok, text} ->
        text |> parse() |> different(facts, files)

      {:error, _} ->
        if Enum.any?(files, &File.exists?/1),
          do: "it is not known what they are",
          else: "they are missing"
    end
  end

  def write!(path, facts, files) do
    lines = for {name, value} <- facts ++ checksums(files), do: [name, ": ", value, "\n"]
    Files.write!(path, lines)
  end

  defp different(written, facts, files) do
    fact = Enum.find(facts, fn {name, value} -> written[name] != value end)
    file = Enum.find(checksums(files), fn {name, value} -> written[name] != value end)

    case {fact, file} do
      {nil, nil} -> nil
      {nil, {name, _}} -> "#{name} is missing or has changed"
      {{"source", _}, _} -> "they were made from something else"
      {{name, value}, _} -> "their #{name} is #{written[name] || "unknown"}, not #{value}"
    end
  end

  defp parse(text) do
    for line <- String.split(text, "\n"),
        [name, value] <- [String.split(line, ": ", parts: 2)],
        into: %{},
        do: {name, value}
  end

  defp checksums(files) do
    for file <- files do
      case File.read(file) do
        {:ok, content} -> {file, Archive.checksum(content)}
        {:error, _} -> {file, "none"}
      end
    end
  end
end
