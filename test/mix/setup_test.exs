defmodule Mix.Tasks.Snakepit.SetupTest do
  # Real environments, made by uv and by venv. The package that they install is a file, so that no
  # test needs a network.
  use ExUnit.Case, async: true

  alias Mix.Snakepit.Venv
  alias Mix.Tasks.Snakepit.Setup
  alias Snakepit.Test.{FileServer, Project}

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    {:ok, project: Project.write!(Path.join(dir, "app"), :app)}
  end

  defp uv do
    uv = System.find_executable("uv") || System.find_executable(Path.expand(".venv/bin/uv"))
    uv || flunk("uv is not installed: mix snakepit.setup --dev installs it")
  end

  # A PATH with uv in front, or without it.
  defp path(:uv), do: Path.dirname(uv()) <> ":" <> path(:pip)

  defp path(:pip) do
    System.get_env("PATH")
    |> String.split(":")
    |> Enum.reject(&File.exists?(Path.join(&1, "uv")))
    |> Enum.join(":")
  end

  defp setup!(project, tool, args \\ []) do
    {output, status} = task(project, tool, args)
    assert status == 0, output
    output
  end

  defp task(project, tool, args) do
    # Without an index nothing but files can be installed.
    env = [{"PATH", path(tool)}, {"PIP_NO_INDEX", "1"}, {"UV_NO_INDEX", "1"}, {"UV_OFFLINE", "1"}]
    Project.mix(project, ["snakepit.setup" | args], env: env)
  end

  # A package that pip and uv install from its file.
  defp wheel!(dir) do
    info = "demo_package-1.0.dist-info"
    record = "demo_package.py,,\n#{info}/METADATA,,\n#{info}/WHEEL,,\n#{info}/RECORD,,\n"

    files = [
      {"demo_package.py", "VALUE = 7\n"},
      {"#{info}/METADATA", "Metadata-Version: 2.1\nName: demo-package\nVersion: 1.0\n"},
      {"#{info}/WHEEL",
       "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
      {"#{info}/RECORD", record}
    ]

    path = Path.join(dir, "demo_package-1.0-py3-none-any.whl")
    files = for {name, text} <- files, do: {to_charlist(name), text}
    {:ok, _} = :zip.create(to_charlist(path), files)
    path
  end

  defp run_python(project, code) do
    python = Path.join(project, ".venv/bin/python")
    {output, status} = System.cmd(python, ["-I", "-c", code], stderr_to_stdout: true)
    {String.trim(output), status}
  end

  defp inode(project), do: File.stat!(Path.join(project, ".venv/pyvenv.cfg")).inode

  defp version do
    {version, 0} =
      System.cmd("python3", ["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])

    String.trim(version)
  end

  defp assert_created(output, project) do
    assert output =~ "* creating .venv"
    assert output =~ "* linking snakepit_bridge"
    assert output =~ ~r/^\.venv is ready: Python 3\.\d+/m
    assert {bridge, 0} = run_python(project, "import snakepit_bridge as b; print(b.__file__)")
    assert bridge == Path.expand("priv/python/snakepit_bridge/__init__.py")
  end

  defp write_pyproject!(project, dependency) do
    File.write!(Path.join(project, "pyproject.toml"), """
    [project]
    name = "app"
    version = "1"
    requires-python = ">=3.9"
    dependencies = ["#{dependency}"]
    """)
  end

  test "creates .venv with uv, installs into it, and leaves it alone from then on",
       %{project: project, tmp_dir: dir} do
    project |> then(&setup!(&1, :uv, ["--python", version()])) |> assert_created(project)
    inode = inode(project)

    # Nothing is left to do, also if its Python is named in another way. Which one the version names depends on
    # the tool.
    assert {python, 0} = run_python(project, "import sys; print(sys._base_executable)")
    refute setup!(project, :uv, ["--python", python]) =~ "* "

    assert {output, 1} = task(project, :uv, ["--python", "3.1"])
    assert output =~ ".venv has Python #{version()}."
    assert output =~ "not the Python of --python 3.1: delete the directory"

    # grpcio is installed only if asked for, which nothing but an index can serve.
    assert {_, 1} = run_python(project, "import grpc")
    assert {output, 1} = task(project, :uv, ["--grpcio"])
    assert output =~ "* installing grpcio>=1.60 protobuf>=4.25 with uv"

    File.write!(Path.join(project, "requirements.txt"), "#{wheel!(dir)}\n")
    installing = "* installing the packages of requirements.txt with uv"
    assert setup!(project, :uv) =~ installing
    assert {"7", 0} = run_python(project, "import demo_package; print(demo_package.VALUE)")
    refute setup!(project, :uv) =~ installing

    File.write!(Path.join(project, "other.txt"), "nowhere-to-be-found\n")
    assert {output, 1} = task(project, :uv, ["--requirements", "other.txt"])
    assert output =~ "nowhere-to-be-found"
    assert inode(project) == inode
  end

  # One environment and few installations: each takes seconds with pip.
  test "creates .venv with pip, installs into it, and leaves it alone from then on",
       %{project: project, tmp_dir: dir} do
    write_pyproject!(project, "demo-package @ file://#{wheel!(dir)}")
    output = setup!(project, :pip, ["--python", version()])
    assert_created(output, project)
    assert output =~ ~r"\* installing demo-package @ file://.* with pip"
    assert {"7", 0} = run_python(project, "import demo_package; print(demo_package.VALUE)")
    inode = inode(project)
    refute setup!(project, :pip) =~ "* "

    File.write!(Path.join(project, "other.txt"), "nowhere-to-be-found\n")
    assert {output, 1} = task(project, :pip, ["--requirements", "other.txt"])
    assert output =~ "* installing the packages of other.txt with pip"
    assert output =~ "nowhere-to-be-found"
    assert inode(project) == inode
  end

  test "installs the dependencies of pyproject.toml with uv", %{project: project, tmp_dir: dir} do
    write_pyproject!(project, "demo-package @ file://#{wheel!(dir)}")
    assert setup!(project, :uv) =~ "* installing "
    assert {"7", 0} = run_python(project, "import demo_package; print(demo_package.VALUE)")
  end

  test "installs what uv.lock lists, with uv, and keeps what else there is",
       %{project: project, tmp_dir: dir} do
    write_pyproject!(project, "demo-package")
    source = ~s([tool.uv.sources]\ndemo-package = {path = "#{wheel!(dir)}"}\n)
    File.write!(Path.join(project, "pyproject.toml"), source, [:append])

    env = [{"UV_OFFLINE", "1"}]
    {output, status} = System.cmd(uv(), ["lock"], cd: project, env: env, stderr_to_stdout: true)
    assert status == 0, output
    assert setup!(project, :uv) =~ "* installing the packages of uv.lock with uv"
    assert {"7", 0} = run_python(project, "import demo_package; print(demo_package.VALUE)")
    assert {_, 0} = run_python(project, "import snakepit_bridge")
    setup!(project, :uv)
    assert {_, 0} = run_python(project, "import snakepit_bridge")
  end

  test "installs again if a file that is included has changed, or if a package is gone",
       %{project: project, tmp_dir: dir} do
    write = &File.write!(Path.join(project, &1), &2)
    installing = "* installing the packages of requirements.txt with uv"
    write.("requirements.txt", "-r more/base.txt\n--constraint=constraints.txt\n")
    File.mkdir!(Path.join(project, "more"))
    write.("more/base.txt", "")
    write.("constraints.txt", "")
    assert setup!(project, :uv) =~ installing
    refute setup!(project, :uv) =~ installing

    write.("more/base.txt", "#{wheel!(dir)}\n")
    assert setup!(project, :uv) =~ installing
    assert {"7", 0} = run_python(project, "import demo_package; print(demo_package.VALUE)")
    refute setup!(project, :uv) =~ installing

    write.("constraints.txt", "demo-package<2\n")
    assert setup!(project, :uv) =~ installing
    refute setup!(project, :uv) =~ installing

    args = ["pip", "uninstall", "--python", ".venv", "demo-package"]
    {_, 0} = System.cmd(uv(), args, cd: project, stderr_to_stdout: true)
    assert setup!(project, :uv) =~ installing
    assert {"7", 0} = run_python(project, "import demo_package; print(demo_package.VALUE)")

    File.rm!(Path.join(project, "constraints.txt"))
    assert {output, 1} = task(project, :uv, [])
    assert output =~ "constraints.txt"
  end

  test "fails where pip would ask for a password", %{project: project} do
    {_, 0} = System.cmd("python3", ["-m", "venv", Path.join(project, ".venv")])
    challenge = "401 Unauthorized\r\nwww-authenticate: Basic realm=\"private\""
    index = "http://" <> FileServer.answer_once!(challenge, "")
    File.write!(Path.join(project, "requirements.txt"), "private-package\n")

    env = [{"PATH", path(:pip)}, {"PIP_INDEX_URL", index}, {"NO_PROXY", "localhost"}]
    {output, status} = Project.mix(project, ["snakepit.setup"], env: env)
    assert status == 1
    assert output =~ "private-package"
    assert output =~ "* installing the packages of requirements.txt with pip"
    assert_received {:asked, "GET /private-package/" <> _}
  end

  test "installs with pip into an environment that uv has made without it",
       %{project: project, tmp_dir: dir} do
    {_, 0} = System.cmd(uv(), ["venv", "-q", "--no-project", Path.join(project, ".venv")])
    assert {_, 1} = run_python(project, "import pip")
    inode = inode(project)
    File.write!(Path.join(project, "requirements.txt"), "#{wheel!(dir)}\n")
    assert setup!(project, :pip) =~ "* installing pip, which .venv does not have"
    assert inode(project) == inode
    assert {"7", 0} = run_python(project, "import demo_package; print(demo_package.VALUE)")
  end

  # It makes environments in a fraction of the time.
  defp python_without_ensurepip!(dir) do
    python = Path.join(dir, "python3")

    File.write!(python, """
    #!/bin/sh
    case "$*" in *ensurepip*) exit 1 ;; esac
    exec #{System.find_executable("python3")} "$@"
    """)

    File.chmod!(python, 0o755)
    python
  end

  test "creates an environment without pip if the Python cannot install it, and again if the Python is gone",
       %{project: project, tmp_dir: dir} do
    args = ["--python", python_without_ensurepip!(dir)]
    assert setup!(project, :pip, args) =~ ".venv is ready"
    assert {_, 1} = run_python(project, "import pip")
    assert {_, 0} = run_python(project, "import snakepit_bridge")
    python = Path.join(project, ".venv/bin/python")
    File.rm!(python)
    File.ln_s!("/nowhere/python3", python)
    assert Venv.state(Venv.new(Path.join(project, ".venv"))) == :broken
    assert setup!(project, :pip, args) =~ "* creating .venv"
    assert {_, 0} = run_python(project, "import snakepit_bridge")
  end

  test "refuses a directory that is something else", %{project: project} do
    assert {output, 1} = task(project, :pip, ["--venv", "."])
    assert output =~ "exists and is not a virtual environment"
    assert File.exists?(Path.join(project, "mix.exs"))
  end

  test "suggests .venv for .gitignore if git does not ignore it",
       %{project: project, tmp_dir: dir} do
    {_, 0} = System.cmd("git", ["init", "-q"], cd: project)
    hint = "git does not ignore .venv: add the line .venv/ to .gitignore"
    output = setup!(project, :pip, ["--python", python_without_ensurepip!(dir)])
    # Python 3.13 ignores its environments itself.
    assert output =~ hint or File.exists?(Path.join(project, ".venv/.gitignore"))
    File.write!(Path.join(project, ".gitignore"), ".venv/\n")
    refute setup!(project, :pip) =~ "git does not ignore"

    # Before `git init`.
    File.rm_rf!(Path.join(project, ".git"))
    refute setup!(project, :pip) =~ "git does not ignore"
  end

  test "prints its documentation, and names the options for a wrong one", %{project: project} do
    assert {output, 0} = task(project, :pip, ["--help"])
    assert output =~ "mix snakepit.setup --python 3.12"
    refute File.exists?(Path.join(project, ".venv"))

    for {args, message} <- [
          {["--pyton", "3.12"], "there is no option --pyton; the options are --python, --venv,"},
          {["--python"], "the option --python needs a value"},
          {["here"], ~s(unexpected argument "here")}
        ] do
      assert %Mix.Error{} = error = catch_error(Setup.run(args))
      assert error.message =~ message
    end
  end
end
