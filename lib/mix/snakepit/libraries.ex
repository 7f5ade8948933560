defmodule Mix.Snakepit.Libraries do
  @moduledoc false
  # The native libraries and programs, of which there are three: where they come from, and where
  # they go in this directory. A release takes them from priv/; Python finds the extension in its
  # package, wherever that is imported from.

  alias Mix.Snakepit.{Archive, Cargo, Files, Precompiled, Stamp, Target}

  @files %{
    "snakepit_nif" => "priv/native/snakepit_nif.so",
    "snakepit_launcher" => "priv/native/snakepit_launcher",
    "snakepit_python" => "python/snakepit_bridge/_native.abi3.so"
  }
  @stamp "priv/native/libraries.txt"
  # The project that compiles this module is Snakepit; the one that runs it may be a user's.
  @version Mix.Project.config()[:version]
  @sources ~w(Cargo.toml Cargo.lock proto/*.proto native/*/Cargo.toml native/*/build.rs native/*/src/**/*.rs)

  # Installs what is wanted, unless it is there. Returns whether it has changed anything.
  def install!(force?) do
    case Precompiled.find() do
      {:ok, name, checksum} -> unpack!(name, checksum, force?)
      {:build, reason} -> build!(reason, force?)
    end
  end

  def archive(target), do: Archive.name(@version, target)

  # The extension for a free-threaded Python, which cannot load the one for all others. The Mix project is that of the
  # user, whose dependencies are in `deps_path`.
  def install_free_threaded!(python, suffix, deps_path) do
    file = "python/snakepit_bridge/_native#{suffix}"
    stamp = "priv/native/free_threaded#{suffix}.txt"
    facts = facts(sources())

    if reason = Stamp.stale(stamp, facts, [file]) do
      info("Compiling the extension for #{python} with cargo: #{reason}")

      once(reason, stamp, facts, [file], fn ->
        # In a separate directory: in a shared one, each of the two builds would undo the other.
        target = Path.join(Mix.Snakepit.env("CARGO_TARGET_DIR") || "target", "free-threaded")
        args = ["--no-default-features", "--target-dir", target]
        {artifacts, _} = cargo!(["snakepit_python"], args, env: [{"PYO3_PYTHON", python}])
        copy!(artifacts, %{"snakepit_python" => file})
        Stamp.write!(stamp, facts, [file])
        clean_up(deps_path)
      end)
    end
  end

  def clean! do
    for path <- ["priv/native" | Path.wildcard("python/snakepit_bridge/_native*.so")],
        do: File.rm_rf!(path)
  end

  # Builds the libraries of a target and packs them. `zigbuild` links them for another system, and
  # for an old glibc: `x86_64-unknown-linux-gnu.2.28`.
  def pack!(target, directory, command) do
    [triple | _glibc] = String.split(target, ".", parts: 2)
    {artifacts, _} = cargo!(Map.keys(@files), ["--target", target], command: command)
    path = Path.join(directory, archive(triple))
    File.mkdir_p!(directory)
    Archive.pack!(path, for({crate, file} <- @files, do: {Path.basename(file), artifacts[crate]}))
    path
  end

  defp unpack!(name, checksum, force?) do
    facts = facts(checksum)

    if force? or Stamp.stale(@stamp, facts, files()) do
      contents = Precompiled.fetch!(name, checksum, Enum.map(files(), &Path.basename/1))
      for file <- files(), do: Files.write!(file, contents[Path.basename(file)], 0o755)
      Stamp.write!(@stamp, facts, files())
      info("Installed #{name}")
    end
  end

  defp build!(why, force?) do
    # Before cargo runs: what is edited meanwhile must be built next time.
    facts = facts(sources())
    reason = Stamp.stale(@stamp, facts, files())

    if reason || force? do
      announce(why, reason || "--force was given")
      started = System.monotonic_time(:second)

      once(reason, @stamp, facts, files(), fn ->
        target = if requested = requested(), do: ["--target", requested], else: []
        {artifacts, target} = cargo!(Map.keys(@files), target, [])
        copy!(artifacts, @files)
        Stamp.write!(@stamp, facts ++ [{"target", target}], files())
        info("Compiled the native libraries in #{System.monotonic_time(:second) - started} s")
        clean_up(Mix.Project.deps_path())
      end)

      true
    end
  end

  # Another `mix compile` may have done it meanwhile and removed cargo's directory. If nothing was
  # stale, a valid stamp does not say that.
  defp once(stale, stamp, facts, files, build) do
    build.()
  rescue
    error in [Mix.Error, File.Error] ->
      if stale == nil or Stamp.stale(stamp, facts, files), do: reraise(error, __STACKTRACE__)
  end

  # cargo knows its own variable.
  defp requested, do: unless(Mix.Snakepit.env("CARGO_BUILD_TARGET"), do: Target.requested())

  defp announce(why, reason) do
    if File.exists?(@stamp) do
      info("Compiling the native libraries with cargo: #{reason}")
    else
      crates = "Cargo.lock" |> File.read!() |> String.split("[[package]]") |> length()

      info("""
      Compiling the native libraries with cargo, since #{why}:
      up to #{crates - 1} crates, 1 to 5 minutes, once. Later builds compile only what has changed.\
      """)
    end
  end

  defp cargo!(crates, args, options), do: Cargo.build!(File.cwd!(), crates, args, options)

  defp copy!(artifacts, files) do
    for {crate, file} <- files, do: Files.write!(file, File.read!(artifacts[crate]), 0o755)
  end

  # Nobody edits the sources of a dependency that Mix has fetched: the directory of cargo, half a
  # gigabyte, would not be used again. A checkout keeps it. Another build may still write there.
  defp clean_up(deps_path) do
    if Path.dirname(File.cwd!()) == Path.expand(deps_path), do: File.rm_rf("target")
  end

  defp facts(source) do
    [
      {"version", @version},
      {"machine", Target.current()},
      {"source", source}
    ]
  end

  # Times say nothing: those of the files of a package are all equal.
  defp sources do
    for pattern <- @sources ++ Cargo.configuration(File.cwd!()),
        path <- pattern |> Path.wildcard() |> Enum.sort() do
      [Path.relative_to_cwd(path), 0, File.read!(path), 0]
    end
    |> IO.iodata_to_binary()
    |> Archive.checksum()
  end

  defp files, do: Map.values(@files)
  defp info(text), do: Mix.shell().info(text)
end
