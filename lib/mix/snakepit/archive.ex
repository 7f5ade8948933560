defmodule Mix.Snakepit.Archive do
  @moduledoc false
  # The precompiled libraries of one target, and the file with the checksums of all archives of a
  # release. Both are named as rustler_precompiled names them.

  @checksums "checksum-Elixir.Snakepit.Native.exs"
  @nif_version "2.15"

  def name(version, target),
    do: "libsnakepit_nif-v#{version}-nif-#{@nif_version}-#{target}.so.tar.gz"

  # The same files make the same archive, whoever packs them and when.
  def pack!(path, files) do
    {:ok, tar} = :erl_tar.open(path, [:write, :compressed])

    for {name, file} <- files do
      options = [mtime: 0, uid: 0, gid: 0]
      :ok = :erl_tar.add(tar, File.read!(file), to_charlist(name), options)
    end

    :ok = :erl_tar.close(tar)
  end

  # Nothing is written: whatever names an archive has, only the contents of `names` are taken.
  def unpack(archive, names) do
    wanted = Enum.map(names, &to_charlist/1)

    with {:ok, found} <-
           :erl_tar.extract({:binary, archive}, [:memory, :compressed, files: wanted]) do
      found = Map.new(found, fn {name, content} -> {to_string(name), content} end)

      case names -- Map.keys(found) do
        [] -> {:ok, found}
        missing -> {:error, "it does not contain #{Enum.join(missing, ", ")}"}
      end
    else
      {:error, reason} -> {:error, "it is not a tar.gz archive (#{inspect(reason)})"}
    end
  end

  # A map from names to checksums. Only a published package has the file: a checkout is %{}.
  def checksums(directory \\ File.cwd!()) do
    path = Path.join(directory, @checksums)
    if File.exists?(path), do: path |> Code.eval_file() |> elem(0), else: %{}
  end

  def write_checksums!(directory, archives) do
    checksums = Map.new(archives, &{Path.basename(&1), &1 |> File.read!() |> checksum()})

    lines =
      for {name, checksum} <- Enum.sort(checksums),
          do: "  #{inspect(name)} => #{inspect(checksum)}"

    path = Path.join(directory, @checksums)
    File.write!(path, ["%{\n", Enum.intersperse(lines, ",\n"), "\n}\n"])
    path
  end

  def checksum(content),
    do: "sha256:" <> Base.encode16(:crypto.hash(:sha256, content), case: :lower)
end
