defmodule Mix.Snakepit.BuildingTest do
  # Changes variables of the environment and the working directory. Builds with the real cargo, from
  # small crates that have the names of the real ones.
  use ExUnit.Case

  import Snakepit.Test.Files, only: [put!: 3]

  alias Mix.Snakepit.{Libraries, Target}
  alias Mix.Tasks.Compile
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

  test "the extension for a free-threaded Python is built in a user's project as in Snakepit's own",
       context do
    %{package: package, tmp_dir: dir} = context
    suffix = ".cpython-314t-x86_64-linux-gnu.so"
    python = Path.join(dir, "python3.14t")
    put!(dir, "python3.14t", "#!/bin/sh\necho #{suffix}\n")
    File.chmod!(python, 0o755)

    app = Path.join(dir, "app")
    dependency = Path.join(app, "deps/snakepit")
    File.mkdir_p!(Path.dirname(dependency))
    File.rename!(package, dependency)
    put!(dependency, "python/snakepit_bridge/__init__.py", "")

    # That of an umbrella has no version.
    put!(app, "mix.exs", """
    defmodule App.MixProject do
      use Mix.Project
      def project, do: [apps_path: "apps", deps: [{:snakepit, path: "deps/snakepit"}]]
    end
    """)

    # In this BEAM, Mix would look for the dependencies among those of this project.
    script = """
    {:ok, _} = Application.ensure_all_started(:mix)
    Code.compile_file("mix.exs")
    :free_threaded = Mix.Tasks.Compile.Snakepit.build_for(#{inspect(python)})
    """

    args = ["-pa", Application.app_dir(:snakepit, "ebin"), "-e", script]
    {output, status} = System.cmd("elixir", args, cd: app, stderr_to_stdout: true)
    assert status == 0, output

    extension = Path.join(dependency, "python/snakepit_bridge/_native#{suffix}")
    assert File.exists?(extension)
    stamp = File.read!(Path.join(dependency, "priv/native/free_threaded#{suffix}.txt"))
    assert stamp =~ "version: #{Application.spec(:snakepit, :vsn)}\n"
    refute File.exists?(Path.join(dependency, "target"))
  end

  test "a Python that does not run is named", %{tmp_dir: dir} do
    python = Path.join(dir, "python")
    File.write!(python, "no program")

    refused = fn ->
      assert_raise(Mix.Error, fn -> Compile.Snakepit.build_for(python) end).message
    end

    assert refused.() =~ "#{python} could not be run: permission denied"
    File.write!(python, "#!/bin/sh\necho no libpython >&2; exit 127\n")
    File.chmod!(python, 0o755)
    assert refused.() == "#{python} could not be run (status 127): no libpython"
  end

  describe "another build at the same time" do
    # The results of one are kept, and cargo is replaced.
    setup %{package: package, tmp_dir: dir} do
      assert install(package)
      others = Path.join(dir, "others")
      File.cp_r!(package, others)
      {:ok, others: others}
    end

    test "has removed the files, and done it", context do
      %{package: package, others: others} = context
      for name <- ~w(priv python), do: File.rm_rf!(Path.join(package, name))
      cargo!(context.tmp_dir, "/nowhere", "cp -a '#{others}/priv' '#{others}/python' .")
      assert install(package)
      refute install(package)
    end

    test "has removed the files, and has not done it", %{package: package, tmp_dir: dir} do
      cargo!(dir, "/nowhere", "rm -r priv")
      File.rm!(Path.join(package, hd(@files)))
      assert_raise File.Error, ~r"/nowhere/", fn -> install(package) end
    end

    test "is not the reason why a valid library is there, if it was before", context do
      cargo!(context.tmp_dir, "/nowhere", "")
      force = fn -> Libraries.install!(true) end
      assert_raise File.Error, ~r"/nowhere/", fn -> File.cd!(context.package, force) end
    end

    test "writes into the directory of cargo while it is removed", context do
      %{package: package, others: others, tmp_dir: dir} = context
      System.put_env("MIX_DEPS_PATH", dir)
      stop = Path.join(dir, "stop")
      on_exit(fn -> File.touch!(stop) end)

      writer = """
      mkdir -p target/other
      while [ ! -e '#{stop}' ] && kill -0 #{System.pid()}; do : > target/other/$((n += 1)); done > /dev/null 2>&1 &
      until [ -e target/other/1 ]; do :; done
      """

      File.rm!(Path.join(package, hd(@files)))
      cargo!(dir, others, writer)
      assert install(package)
      refute install(package)
    end
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

  # Names files as built that are in a directory, after a script has run.
  defp cargo!(dir, built, script) do
    artifacts =
      for file <- @files do
        name = Path.basename(file)
        kind = if Path.extname(name) == "", do: "bin", else: "cdylib"
        target = ~s("target":{"kind":["#{kind}"],"name":"#{crate(name)}"})
        path = Path.join(built, file)
        ~s({"reason":"compiler-artifact",#{target},"filenames":["#{path}"]})
      end

    program =
      put!(dir, "bin/cargo", """
      #!/bin/sh
      if [ "$1" = --version ]; then echo cargo 9.9.0; exit; fi
      #{script}
      printf '%s\\n' '#{Enum.join(artifacts, "' '")}'
      """)

    File.chmod!(program, 0o755)
    path = Path.dirname(program) <> ":" <> System.get_env("PATH")
    Snakepit.Test.Environment.put([{"PATH", path}])
  end

  defp crate("_native" <> _), do: "snakepit_python"
  defp crate(name), do: Path.rootname(name)

  defp install(package), do: File.cd!(package, fn -> Libraries.install!(false) end)
  defp stamp(package), do: package |> stamp_path() |> File.read!()
  defp stamp_path(package), do: Path.join(package, "priv/native/libraries.txt")
end
