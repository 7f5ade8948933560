defmodule Snakepit.Pool.SourceFiles do
  @moduledoc false
  # The Python files under some directories, each with a digest of its content.

  # How many entries of a directory are read; one with more hardly contains only the user's code.
  @most 10_000
  @skipped ~w(__pycache__ node_modules site-packages _build)
  # A file written within this many seconds may change again without a change of its time, because
  # of the file system's resolution.
  @recent 3

  @type t :: %{Path.t() => {term, binary}}

  @doc "The maximum number of files to check."
  def most, do: @most

  @doc "Returns the current files. Those with the same size and times as in `before` are not read again."
  @spec read([Path.t()], t) :: t
  def read(directories, before \\ %{}) do
    recent = System.os_time(:second) - @recent
    {files, _seen} = Enum.reduce(directories, {%{}, MapSet.new()}, &walk(&1, before, recent, &2))
    files
  end

  @doc "Returns the paths of files that are new, gone, or have other content."
  @spec changed(t, t) :: [Path.t()]
  def changed(before, now) do
    gone = for {path, _file} <- before, not is_map_key(now, path), do: path

    changed =
      for {path, {_stat, digest}} <- now, not match?(%{^path => {_, ^digest}}, before), do: path

    changed ++ gone
  end

  # A directory that several links lead to is visited once.
  defp walk(directory, before, recent, {files, seen} = found) do
    with {:ok, %{type: :directory} = stat} <- stat(directory),
         id = {stat.major_device, stat.inode},
         false <- MapSet.member?(seen, id),
         {:ok, names} <- :file.list_dir_all(directory) do
      if ~c"pyvenv.cfg" in names,
        do: found,
        else:
          Enum.reduce(
            names,
            {files, MapSet.put(seen, id)},
            &entry(&1, directory, before, recent, &2)
          )
    else
      _other -> found
    end
  end

  defp entry(name, directory, before, recent, {files, seen} = found) do
    name = name(name)
    path = Path.join(directory, name)

    cond do
      map_size(files) >= @most or String.starts_with?(name, ".") or name in @skipped -> found
      String.ends_with?(name, ".py") -> {put(files, path, before, recent), seen}
      true -> walk(path, before, recent, found)
    end
  end

  defp put(files, path, before, recent) do
    with {:ok, %{type: :regular} = stat} <- stat(path),
         stat = {stat.size, stat.mtime, stat.ctime, stat.inode},
         {:ok, file} <- file(path, stat, before, recent) do
      Map.put(files, path, file)
    else
      # It is gone already.
      _other -> files
    end
  end

  defp file(path, {_size, mtime, ctime, _inode} = stat, before, recent) do
    case before do
      %{^path => {^stat, _digest} = file} when mtime < recent and ctime < recent -> {:ok, file}
      _ -> with {:ok, data} <- :file.read_file(path), do: {:ok, {stat, :erlang.md5(data)}}
    end
  end

  defp stat(path), do: File.stat(path, time: :posix)

  # The bytes of a name, whatever the locale.
  defp name(name) when is_binary(name), do: name
  defp name(name), do: :unicode.characters_to_binary(name, :unicode, :file.native_name_encoding())
end
