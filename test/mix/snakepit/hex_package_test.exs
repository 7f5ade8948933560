defmodule Mix.Snakepit.HexPackageTest do
  # Serves an archive and changes no variable of its own process.
  use ExUnit.Case, async: true

  import Snakepit.Test.FileServer

  alias Mix.Snakepit.{Archive, Libraries, Target}
  alias Snakepit.Test.HexPackage

  @moduletag :tmp_dir
  @libraries ~w(priv/native/snakepit_nif.so priv/native/snakepit_launcher python/snakepit_bridge/_native.abi3.so)

  test "the metadata is complete" do
    config = Mix.Project.config()
    package = HexPackage.package()
    assert String.length(config[:description]) in 20..300
    assert {:ok, _} = Version.parse(config[:version])
    assert package[:licenses] == ["MIT"]
    assert [_ | _] = package[:maintainers]
    assert package[:links]["GitHub"] == config[:source_url]
    urls = [config[:source_url], config[:homepage_url] | Map.values(package[:links])]
    for url <- urls, do: assert(%URI{scheme: "https", host: <<_, _::binary>>} = URI.parse(url))
    assert config[:docs][:source_ref] == "v" <> config[:version]
  end

  test "each pattern names files; without checksums Hex refuses" do
    empty =
      for pattern <- HexPackage.package()[:files],
          Path.wildcard(pattern, match_dot: true) == [],
          do: pattern

    assert empty -- ["checksum-*.exs"] == []
    assert "checksum-*.exs" in HexPackage.package()[:files]
  end

  test "it has every source, and nothing that is built or only tests" do
    files = HexPackage.files()

    for pattern <-
          ~w(lib/**/*.ex native/*/src/**/*.rs python/snakepit_bridge/**/*.py guides/*.md proto/**/*.proto),
        path <- Path.wildcard(pattern),
        not (Path.basename(path) =~ ~r/tests?\.rs$/),
        do: assert(path in files)

    for file <-
          ~w(mix.exs LICENSE README.md CHANGELOG.md Cargo.toml Cargo.lock .cargo/config.toml python/pyproject.toml
                   python/snakepit_bridge/py.typed python/snakepit_bridge/_native.pyi),
        do: assert(file in files)

    for file <- files do
      segments = Path.split(file)

      refute Enum.any?(~w(test tests priv target _build .venv __pycache__), &(&1 in segments)),
             file

      refute Path.extname(file) in ~w(.so .dylib .a .o .beam .pyc .gz .whl), file
      refute match?(<<0x7F, "ELF", _::binary>>, File.read!(file)), file
    end
  end

  test "it is small", %{tmp_dir: dir} do
    files = for file <- HexPackage.files(), do: {to_charlist(file), File.read!(file)}
    tar = Path.join(dir, "package.tar.gz")
    :ok = :erl_tar.create(tar, files, [:compressed])
    # Hex refuses more than 8 MiB.
    assert File.stat!(tar).size in 100_000..1_500_000
  end

  test "cargo finds in it all that the manifests name", %{tmp_dir: dir} do
    HexPackage.unpack!(dir)
    args = ~w(metadata --no-deps --offline --locked --format-version 1)
    {output, status} = System.cmd("cargo", args, cd: dir, stderr_to_stdout: true)
    assert status == 0, output
    assert output =~ ~s("name":"snakepit_nif")
  end

  test "an application runs with it and a precompiled archive, without cargo", %{tmp_dir: dir} do
    [package, app, archives, home] =
      for name <- ~w(package app archives home), do: Path.join(dir, name)

    for folder <- [app, archives, home], do: File.mkdir_p!(folder)
    HexPackage.unpack!(package)
    archive = Path.join(archives, Libraries.archive(Target.current()))
    Archive.pack!(archive, for(file <- @libraries, do: {Path.basename(file), file}))
    Archive.write_checksums!(package, [archive])
    # As in a package that was built on another machine.
    for file <- @libraries, do: foreign!(Path.join(package, file))

    File.write!(Path.join(app, "mix.exs"), """
    defmodule App.MixProject do
      use Mix.Project
      def project, do: [app: :app, version: "1.0.0", deps: [{:snakepit, path: "../package"}]]
      def application, do: [extra_applications: [:logger]]
    end
    """)

    File.mkdir_p!(Path.join(app, "config"))

    File.write!(Path.join(app, "config/config.exs"), """
    import Config
    config :snakepit, precompiled: "#{serve!(archives)}", pool_config: %{pool_size: 1}
    """)

    script = """
    :ok = Snakepit.Pool.await_ready(Snakepit.Pool, 60_000)
    IO.inspect(Snakepit.execute("compute", %{operation: "add", a: 2, b: 3}, timeout: 60_000))
    """

    output = mix!(["run", "-e", script], app, home)
    assert output =~ "Downloading http://localhost:"
    assert output =~ ~s({:ok, %{"result" => 5}})
    refute output =~ "cargo"
    assert File.ls!(Path.join(home, ".cache/precompiled_nifs")) == [Path.basename(archive)]
    for file <- @libraries, do: assert(File.read!(Path.join(package, file)) == File.read!(file))
    refute File.exists?(Path.join(package, "target"))

    # What another system leaves there later does not stay either.
    for file <- @libraries, do: foreign!(Path.join(package, file))
    output = mix!(["run", "-e", script], app, home)
    refute output =~ "Downloading"
    assert output =~ ~s({:ok, %{"result" => 5}})
  end

  defp foreign!(path) do
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, "a library of another system")
    File.touch!(path, 946_684_800)
  end

  defp mix!(args, app, home) do
    folders =
      for folder <- String.split(System.get_env("PATH"), ":"),
          not File.exists?(Path.join(folder, "cargo")),
          do: folder

    env = [
      {"PATH", Enum.join(folders, ":")},
      {"HOME", home},
      {"XDG_CACHE_HOME", nil},
      {"MIX_ENV", "prod"},
      {"MIX_BUILD_PATH", nil},
      {"SNAKEPIT_PRECOMPILED", nil},
      {"SNAKEPIT_BUILD", nil}
    ]

    {output, status} = System.cmd("mix", args, cd: app, env: env, stderr_to_stdout: true)
    assert status == 0, output
    output
  end
end
