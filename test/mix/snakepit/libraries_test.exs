defmodule Mix.Snakepit.LibrariesTest do
  # Changes variables of the environment and the working directory.
  use ExUnit.Case

  import Snakepit.Test.Files, only: [put!: 3]
  import Snakepit.Test.FileServer

  alias Mix.Snakepit.{Archive, Libraries, Target}

  @moduletag :tmp_dir
  @files ~w(priv/native/snakepit_nif.so priv/native/snakepit_launcher python/snakepit_bridge/_native.abi3.so)
  @variables ~w(SNAKEPIT_BUILD SNAKEPIT_PRECOMPILED RUSTLER_PRECOMPILED_FORCE_BUILD_ALL CARGO_BUILD_TARGET
                TARGET_ARCH TARGET_OS TARGET_ABI http_proxy HTTP_PROXY)

  # A package, and a directory with its archive, which has other contents than this project's
  # libraries: nothing here needs to run. There is no cargo.
  setup %{tmp_dir: dir} do
    [package, archives, empty] = for name <- ~w(package archives empty), do: Path.join(dir, name)
    for folder <- [package, archives, empty], do: File.mkdir_p!(folder)
    for file <- ~w(Cargo.toml Cargo.lock), do: File.cp!(file, Path.join(package, file))

    Snakepit.Test.Environment.put(
      [{"RUSTLER_PRECOMPILED_GLOBAL_CACHE_PATH", Path.join(dir, "cache")}, {"PATH", empty}] ++
        for(name <- @variables, do: {name, nil})
    )

    Mix.shell(Mix.Shell.Process)
    on_exit(fn -> Mix.shell(Mix.Shell.IO) end)
    {:ok, package: package, archives: archives, archive: archive!(archives, package)}
  end

  test "are downloaded once, checked and installed",
       %{package: package, tmp_dir: dir} = context do
    url = serve!(context.archives)
    System.put_env("SNAKEPIT_PRECOMPILED", url)
    assert install(package)
    assert_received {:mix_shell, :info, ["Downloading " <> _]}
    assert contents(package) == Enum.map(@files, &Path.basename/1)

    assert Bitwise.band(
             File.stat!(Path.join(package, "priv/native/snakepit_launcher")).mode,
             0o111
           ) == 0o111

    refute install(package)

    # From the cache, without a server.
    System.put_env("SNAKEPIT_PRECOMPILED", "http://localhost:1")
    another = Path.join(dir, "another")
    File.cp_r!(package, another)
    for file <- @files, do: File.rm!(Path.join(another, file))
    assert install(another)
    assert contents(another) == contents(package)
    refute_received {:mix_shell, :info, ["Downloading http://localhost:1" <> _]}
  end

  test "come from a directory that the configuration names", context do
    Application.put_env(:snakepit, :precompiled, context.archives)
    on_exit(fn -> Application.delete_env(:snakepit, :precompiled) end)
    assert install(context.package)
    assert contents(context.package) == Enum.map(@files, &Path.basename/1)
  end

  test "come from where they would without variables that are set to nothing", context do
    Application.put_env(:snakepit, :precompiled, context.archives)
    on_exit(fn -> Application.delete_env(:snakepit, :precompiled) end)
    empty = ~w(SNAKEPIT_PRECOMPILED RUSTLER_PRECOMPILED_GLOBAL_CACHE_PATH HOME)
    Snakepit.Test.Environment.put(for name <- empty, do: {name, ""})
    assert install(context.package)
    assert contents(context.package) == Enum.map(@files, &Path.basename/1)
    # Without a home, nothing is kept: the current directory is no cache.
    refute File.exists?(Path.join(context.package, context.archive))
  end

  test "replace those of another machine, version or build, and those that nothing is known of",
       context do
    System.put_env("SNAKEPIT_PRECOMPILED", context.archives)
    for file <- @files, do: put!(context.package, file, "a foreign library")
    assert install(context.package)
    assert contents(context.package) == Enum.map(@files, &Path.basename/1)

    stamp = Path.join(context.package, "priv/native/libraries.txt")
    written = File.read!(stamp)

    for {fact, other} <- [
          {"version: 0.1.0", "version: 0.0.9"},
          {"machine: #{Target.current()}", "machine: aarch64-apple-darwin"},
          {"source: sha256", "source: sha255"}
        ] do
      assert written =~ fact
      File.write!(stamp, String.replace(written, fact, other))
      put!(context.package, hd(@files), "a foreign library")
      assert install(context.package)
      assert contents(context.package) == Enum.map(@files, &Path.basename/1)
    end

    # Only one of the files, with a stamp of this machine.
    put!(context.package, List.last(@files), "a foreign library")
    assert install(context.package)
    assert contents(context.package) == Enum.map(@files, &Path.basename/1)
  end

  test "are not installed if their archive is not the published one", context do
    File.write!(Path.join(context.archives, context.archive), "another", [:append])
    url = serve!(context.archives)

    for place <- [url, context.archives] do
      System.put_env("SNAKEPIT_PRECOMPILED", place)
      message = refused(context.package)
      assert message =~ "#{place}/#{context.archive} is not the archive"

      assert message =~
               ~r/expected sha256:[0-9a-f]{64}\n\s+got      sha256:[0-9a-f]{64} \(\d+ bytes\)/

      refute File.exists?(Path.join(context.package, "priv/native"))
    end
  end

  test "a wrong archive in the cache is replaced", %{tmp_dir: dir} = context do
    put!(dir, "cache/#{context.archive}", "another")
    System.put_env("SNAKEPIT_PRECOMPILED", serve!(context.archives))
    assert install(context.package)

    assert File.read!(Path.join([dir, "cache", context.archive])) ==
             File.read!(Path.join(context.archives, context.archive))
  end

  test "a cache that cannot be written to is no reason to fail", %{tmp_dir: dir} = context do
    put!(dir, "file", "")
    System.put_env("RUSTLER_PRECOMPILED_GLOBAL_CACHE_PATH", Path.join(dir, "file/cache"))
    System.put_env("SNAKEPIT_PRECOMPILED", context.archives)
    assert install(context.package)
  end

  test "every failure says what was expected and what to do", %{package: package, tmp_dir: dir} do
    for {place, reason} <- [
          {serve!(Path.join(dir, "empty")), "the server answered 404"},
          {"http://localhost:1", "cannot connect to localhost:1"},
          {Path.join(dir, "empty"), "no such file or directory"}
        ] do
      System.put_env("SNAKEPIT_PRECOMPILED", place)
      message = refused(package)
      assert message =~ place <> "/libsnakepit_nif-v"
      assert message =~ reason

      for text <- ~w(HTTPS_PROXY SNAKEPIT_PRECOMPILED SNAKEPIT_BUILD=1 rustup.rs cc),
          do: assert(message =~ text)
    end

    System.put_env("SNAKEPIT_PRECOMPILED", "archives")
    assert refused(package) =~ ~s(the absolute path of a directory; got "archives")
  end

  test "for a machine without an archive, and where building is asked for, cargo is needed",
       context do
    System.put_env("SNAKEPIT_PRECOMPILED", context.archives)

    needs =
      ~r/cargo was not found: building needs Rust \d+\.\d+ or newer .* and a C compiler with its linker/

    for {name, value, reason} <- [
          {"TARGET_ABI", "gnueabihf",
           "there is no precompiled archive for armv7-unknown-linux-gnueabihf"},
          {"CARGO_BUILD_TARGET", "riscv64gc-unknown-linux-gnu",
           "archive for riscv64gc-unknown-linux-gnu"},
          {"RUSTLER_PRECOMPILED_FORCE_BUILD_ALL", "true",
           "RUSTLER_PRECOMPILED_FORCE_BUILD_ALL is set"},
          {"SNAKEPIT_BUILD", "1", "SNAKEPIT_BUILD is set"}
        ] do
      System.put_env(%{"TARGET_ARCH" => "armv7", "TARGET_OS" => "linux", name => value})
      assert refused(context.package) =~ needs
      assert_received {:mix_shell, :info, [announced]}
      assert announced =~ reason
      assert announced =~ ~r/up to 1\d\d crates, 1 to 5 minutes, once/
    end
  end

  test "a checkout has no checksums, and is built", context do
    for path <- Path.wildcard(Path.join(context.package, "checksum-*.exs")), do: File.rm!(path)
    System.put_env("SNAKEPIT_PRECOMPILED", context.archives)
    assert refused(context.package) =~ "cargo was not found"

    assert_received {:mix_shell, :info,
                     ["Compiling the native libraries with cargo, since this is a checkout" <> _]}
  end

  test "of two compilations at the same time, each leaves them whole", context do
    System.put_env("SNAKEPIT_PRECOMPILED", context.archives)

    File.cd!(context.package, fn ->
      tasks = for _ <- 1..8, do: Task.async(fn -> Libraries.install!(true) end)
      Task.await_many(tasks, :infinity)
    end)

    assert contents(context.package) == Enum.map(@files, &Path.basename/1)
    refute install(context.package)
  end

  defp archive!(archives, package) do
    name = Libraries.archive(Target.current())
    path = Path.join(archives, name)

    members =
      for file <- Enum.map(@files, &Path.basename/1), do: {file, put!(archives, file, file)}

    Archive.pack!(path, members)
    Archive.write_checksums!(package, [path])
    name
  end

  defp install(package), do: File.cd!(package, fn -> Libraries.install!(false) end)
  defp refused(package), do: assert_raise(Mix.Error, fn -> install(package) end).message
  defp contents(package), do: for(file <- @files, do: File.read!(Path.join(package, file)))
end
