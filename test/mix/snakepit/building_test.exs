defmodule Mix.Snakepit.BuildingTest do
  # Changes variables of the environment and the working directory. Builds with the real cargo, from
  # small crates that have the names of the real ones.
  use ExUnit.Case

  import Snakepit.Test.Files, only: [put!: 3]

  alias Mix.Snakepit.{Libraries, Target}
  alias Snakepit.Test.Crates

  @moduletag :tmp_dir
  @files ~w(priv/native/snakepit_nif.so priv/native/snakepit_launcher python/snakepit_bridge/_native.abi3.so)

  setup %{tmp_dir: dir} do
    variables =
      ~w(SNAKEPIT_BUILD SNAKEPIT_PRECOMPILED CARGO_BUILD_TARGET CARGO_TARGET_DIR MIX_DEPS_PATH)

    Snakepit.Test.Environment.put(for name <- variables, do: {name, nil})
    Mix.shell(Mix.Shell.Process)
    on_exit(fn -> Mix.shell(Mix.Shell.IO) end)
    package = Path.join(dir, "snakepit")
    host = Crates.write!(package, ~w(snakepit_nif snakepit_python), ["snakepit_launcher"])
    {:ok, package: package, host: host}
  end

  test "a checkout is built once, and again for other sources, another target or foreign files",
       context do
    %{package: package, host: host} = context
    assert install(package)
    assert_received {:mix_shell, :info, ["Compiling the native libraries" <> announced]}
    assert announced =~ "up to 3 crates, 1 to 5 minutes, once"
    assert_received {:mix_shell, :info, ["Compiled the native libraries in " <> _]}
    assert stamp(package) =~ "\ntarget: #{host}\n"
    assert {_, 0} = System.cmd(Path.join(package, "priv/native/snakepit_launcher"), [])
    refute install(package)

    put!(package, "native/snakepit_nif/src/lib.rs", "// edited\n")
    File.touch!(Path.join(package, "native/snakepit_nif/src/lib.rs"), 946_684_800)
    assert install(package)

    assert_received {:mix_shell, :info,
                     ["Compiling the native libraries with cargo: they were made" <> _]}

    refute install(package)

    for file <- @files do
      put!(package, file, "a foreign library")
      assert install(package)

      assert_received {:mix_shell, :info,
                       ["Compiling the native libraries with cargo: " <> reason]}

      assert reason == "#{file} is missing or has changed"
    end

    # `[build] target` moves cargo's files into another directory.
    put!(package, ".cargo/config.toml", ~s([build]\ntarget = "#{host}"\n))
    assert install(package)
    assert File.exists?(Path.join(package, "target/#{host}/release/snakepit_launcher"))
    refute install(package)

    File.write!(
      stamp_path(package),
      String.replace(stamp(package), Target.current(), "aarch64-apple-darwin")
    )

    assert install(package)

    assert_received {:mix_shell, :info,
                     ["Compiling the native libraries with cargo: their machine is aarch64" <> _]}

    # Later builds are short.
    assert File.dir?(Path.join(package, "target"))
  end

  test "cargo's directory does not stay in a dependency that Mix has fetched", context do
    %{package: package, tmp_dir: dir} = context
    System.put_env("MIX_DEPS_PATH", dir)
    assert install(package)
    assert Enum.all?(@files, &File.exists?(Path.join(package, &1)))
    refute File.exists?(Path.join(package, "target"))
    refute install(package)
  end

  test "an archive of a target has what was built for it", %{
    package: package,
    host: host,
    tmp_dir: dir
  } do
    archives = Path.join(dir, "archives")
    path = File.cd!(package, fn -> Libraries.pack!(host, archives, "build") end)
    assert Path.basename(path) == Libraries.archive(host)
    names = Enum.map(@files, &Path.basename/1)
    assert {:ok, contents} = Mix.Snakepit.Archive.unpack(File.read!(path), names)
    built = Path.join(package, "target/#{host}/release/snakepit_launcher")
    assert contents["snakepit_launcher"] == File.read!(built)
    refute File.exists?(Path.join(package, "priv"))
  end

  defp install(package), do: File.cd!(package, fn -> Libraries.install!(false) end)
  defp stamp(package), do: package |> stamp_path() |> File.read!()
  defp stamp_path(package), do: Path.join(package, "priv/native/libraries.txt")
end
