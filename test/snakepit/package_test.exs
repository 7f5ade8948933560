for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "PackageOver#{kind}Test") do
    # Which copy of the Python package workers import, and which one a developer's tools find.
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @way way
    @moduletag :tmp_dir
    @stale "raise SystemExit('a stale copy was imported')\n"

    # A fresh environment that also has packages from another one: those that the grpcio server
    # needs.
    defp environment(dir) do
      python = Path.expand(".venv/bin/python")
      {_, 0} = System.cmd(python, ["-m", "venv", "--without-pip", Path.join(dir, "venv")])
      Path.join(dir, "venv/bin/python")
    end

    defp packages(python) do
      {folder, 0} =
        System.cmd(python, ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])

      String.trim(folder)
    end

    test "is the pool's own if another one is installed", %{tmp_dir: dir} do
      python = environment(dir)
      stale = Path.join(packages(python), "snakepit_bridge")
      File.mkdir_p!(stale)
      File.write!(Path.join(stale, "__init__.py"), @stale)
      others = Path.expand(".venv/bin/python") |> packages()
      pool = start_pool!([python: python, env: %{"PYTHONPATH" => others}] ++ @way)
      assert {:ok, %{"status" => "ok"}} = Snakepit.execute("ping", %{}, pool: pool)
    end

    test "is the pool's own if PYTHONPATH has another one", %{tmp_dir: dir} do
      File.mkdir_p!(Path.join(dir, "snakepit_bridge"))
      File.write!(Path.join(dir, "snakepit_bridge/__init__.py"), @stale)
      pool = start_pool!([env: %{"PYTHONPATH" => dir}] ++ @way)
      assert {:ok, %{"status" => "ok"}} = Snakepit.execute("ping", %{}, pool: pool)
    end

    test "is refused if another one is in the directory that workers run in", %{tmp_dir: dir} do
      python = Path.expand(".venv/bin/python")
      File.mkdir_p!(Path.join(dir, "snakepit_bridge"))
      pool = start_pool!([root: dir, python: python, adapter_args: []] ++ @way)
      assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)

      File.write!(Path.join(dir, "snakepit_bridge/__init__.py"), @stale)
      pool = start_pool_unready!([root: dir, python: python, adapter_args: []] ++ @way)
      assert {:error, %Error{reason: :worker_start_failed, message: message}} = await_ready(pool)
      assert message =~ "#{dir}/snakepit_bridge/__init__.py would be imported in place of"
    end

    if way[:server] == :native do
      test "is found by editors, mypy and pytest in an environment of mix snakepit.setup",
           %{tmp_dir: dir} do
        python = environment(dir)
        Mix.Tasks.Snakepit.Setup.link_package(python)
        Mix.Tasks.Snakepit.Setup.link_package(python)
        code = "import snakepit_bridge, snakepit_bridge.testing; print(snakepit_bridge.__file__)"
        # Not from the directory in which the test runs.
        {found, 0} = System.cmd(python, ["-I", "-c", code])
        assert String.trim(found) == Path.expand("priv/python/snakepit_bridge/__init__.py")
      end

      test "is distinguished from a copy in the environment", %{tmp_dir: dir} do
        python = environment(dir)
        copy = Path.join(packages(python), "snakepit_bridge")
        File.mkdir_p!(copy)
        File.write!(Path.join(copy, "__init__.py"), "")

        text =
          ExUnit.CaptureIO.capture_io(fn -> Mix.Tasks.Snakepit.Setup.link_package(python) end)

        assert text =~ "has its own snakepit_bridge, #{copy}/__init__.py"
        assert text =~ "-m pip uninstall snakepit-bridge"
      end
    end
  end
end
