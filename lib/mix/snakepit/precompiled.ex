defmodule Mix.Snakepit.Precompiled do
  @moduledoc false
  # Whether there is a precompiled archive for this machine, and how it gets here: from the cache, a
  # directory or a server. It is used only if it has the checksum that the package was published with.

  alias Mix.Snakepit.{Archive, Cargo, Download, Files, Target}

  # {:ok, archive's name, its checksum}, or :build with the reason in words.
  def find do
    target = Target.current()
    checksums = Archive.checksums()
    name = Archive.name(Mix.Project.config()[:version], target)

    cond do
      forced = forced() ->
        {:build, forced}

      checksums == %{} or File.exists?(".git") ->
        {:build, "this is a checkout, not a published package"}

      checksum = checksums[name] ->
        {:ok, name, checksum}

      true ->
        {:build, "there is no precompiled archive for #{target}"}
    end
  end

  # The contents of the files that the archive has.
  def fetch!(name, checksum, files) do
    archive = cached(name, checksum) || get!(name, checksum)

    case Archive.unpack(archive, files) do
      {:ok, contents} -> contents
      {:error, reason} -> fail!(name, reason)
    end
  end

  defp forced do
    variables = ~w(SNAKEPIT_BUILD RUSTLER_PRECOMPILED_FORCE_BUILD_ALL)
    variable = Enum.find(variables, &(System.get_env(&1) in ~w(1 true)))

    cond do
      variable -> "#{variable} is set"
      location() == false -> "the configuration has `precompiled: false`"
      true -> nil
    end
  end

  defp cached(name, checksum) do
    with folder when folder != nil <- cache(),
         {:ok, archive} <- File.read(Path.join(folder, name)),
         ^checksum <- Archive.checksum(archive) do
      archive
    else
      _other -> nil
    end
  end

  defp get!(name, checksum) do
    {place, got} = get(location(), name)

    case got do
      {:ok, archive} -> checked!(archive, name, checksum, place)
      {:error, reason} -> fail!(name, "#{place}: #{reason}")
    end
  end

  defp get("http" <> _ = url, name) do
    url = String.trim_trailing(url, "/") <> "/" <> name
    Mix.shell().info("Downloading #{url}")
    {url, Download.get(url)}
  end

  defp get(directory, name) do
    unless is_binary(directory) and Path.type(directory) == :absolute do
      Mix.raise(
        "expected `config :snakepit, precompiled: ...`, or SNAKEPIT_PRECOMPILED, to be a URL that starts with " <>
          "https:// or http://, or the absolute path of a directory; got #{inspect(directory)}"
      )
    end

    path = Path.join(directory, name)

    case File.read(path) do
      {:ok, archive} -> {path, {:ok, archive}}
      {:error, reason} -> {path, {:error, to_string(:file.format_error(reason))}}
    end
  end

  defp checked!(archive, name, checksum, place) do
    case Archive.checksum(archive) do
      ^checksum ->
        remember(archive, name)
        archive

      other ->
        fail!(name, """
        #{place} is not the archive that this version of Snakepit was published with:
          expected #{checksum}
          got      #{other} (#{byte_size(archive)} bytes)
        A proxy or a mirror may have changed it, or it is the archive of another release.\
        """)
    end
  end

  # Without a cache, the next project downloads again: no reason to fail.
  defp remember(archive, name) do
    if folder = cache(), do: Files.write!(Path.join(folder, name), archive)
  rescue
    File.Error -> :ok
    File.RenameError -> :ok
  end

  defp cache do
    Mix.Snakepit.env("RUSTLER_PRECOMPILED_GLOBAL_CACHE_PATH") ||
      if Mix.Snakepit.env("HOME"),
        do: :filename.basedir(:user_cache, "precompiled_nifs") |> to_string()
  end

  defp location do
    configured = Application.get_env(:snakepit, :precompiled)

    Mix.Snakepit.env("SNAKEPIT_PRECOMPILED") ||
      if configured == nil, do: default(), else: configured
  end

  defp default do
    config = Mix.Project.config()
    "#{config[:source_url]}/releases/download/v#{config[:version]}"
  end

  defp fail!(name, reason) do
    Mix.raise("""
    Snakepit's precompiled libraries cannot be installed.

    #{reason}

    What you can do:
      * online: try again; through a proxy, set HTTPS_PROXY; behind one that replaces certificates, set SSL_CERT_FILE
      * from a mirror or a directory: set SNAKEPIT_PRECOMPILED to a URL or to the absolute path of a directory that has
        #{name}
      * without it: SNAKEPIT_BUILD=1 mix deps.compile snakepit --force; that needs #{Cargo.requirements(File.cwd!())}\
    """)
  end
end
