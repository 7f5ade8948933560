defmodule Mix.Tasks.Snakepit.DoctorTest do
  # The task as users run it, in projects of their own, with each fault that it must find.
  use ExUnit.Case, async: true

  alias Snakepit.Test.Project

  @moduletag :tmp_dir

  @commands """
  from snakepit_bridge import Adapter, command

  class Commands(Adapter):
      @command
      def greet(self, name: str) -> str:
          return f"Hello {name}"
  """

  # A project whose application starts the pool App.Python.
  defp project!(dir, options \\ "", files \\ %{}) do
    application = """
    defmodule App.Application do
      use Application

      def start(_type, _args) do
        pool = [
          name: App.Python,
          size: 3,
          adapter_args: [class: "commands:Commands", paths: ["python"]],
          startup_timeout: 120_000,
          #{options}
        ]

        Supervisor.start_link([{Snakepit.Pool, pool}], strategy: :one_for_one)
      end
    end
    """

    files =
      Map.merge(
        %{"lib/app/application.ex" => application, "python/commands.py" => @commands},
        files
      )

    Project.write!(Path.join(dir, "app"), :app, files, mod: "App.Application")
  end

  # Settings of the dependency are in config/runtime.exs, because others compile it anew.
  defp doctor(project, args \\ []), do: Project.mix(project, ["snakepit.doctor" | args])

  defp lines(output), do: String.split(output, "\n")

  defp line(output, name), do: Enum.find(lines(output), &(&1 =~ ~r/^(ok|FAIL|-) +#{name}/)) || ""

  test "checks everything, and the pools that the applications start", %{tmp_dir: dir} do
    {output, status} = doctor(project!(dir))
    assert status == 0, output
    assert line(output, "Elixir") =~ "ok    Elixir            #{System.version()}, Erlang/OTP"
    assert line(output, "native library") =~ "priv/native/snakepit_nif.so for "
    assert line(output, "launcher") =~ "ok "
    assert line(output, "socket directory") =~ "is writable"
    assert line(output, "configuration") =~ "valid"
    assert line(output, "application") =~ "app starts"
    assert line(output, "open files") =~ "ok "
    assert line(output, "processes") =~ "ok "
    assert "pool App.Python" in lines(output)
    assert line(output, "Python") =~ ~r/ok    Python +3\.\d+\.\d+, no virtual environment/
    assert line(output, "bridge") =~ "snakepit_bridge #{Application.spec(:snakepit, :vsn)}"
    assert line(output, "adapter") =~ "commands:Commands is imported"
    assert line(output, "worker") =~ ~r/ready in \d+ ms, 1 commands?; a call took [\d.]+ ms/
    assert List.last(lines(String.trim(output))) == "No check failed."
  end

  test "shows why a command class cannot be imported, and how to fix it", %{tmp_dir: dir} do
    broken = %{"python/commands.py" => "import nowhere_to_be_found\n"}
    # The pool fails the start of the application as well.
    {output, status} = doctor(project!(dir, "await_ready: true", broken))
    assert status == 1
    assert line(output, "application") =~ "FAIL"
    assert line(output, "bridge") =~ "ok "
    assert line(output, "adapter") =~ "FAIL"
    assert output =~ "ModuleNotFoundError: No module named 'nowhere_to_be_found'"
    assert output =~ "fix: install nowhere_to_be_found"
    # A worker could not start either.
    assert line(output, "worker") == ""
    assert output =~ "2 checks failed."

    File.rename!(
      Path.join(dir, "app/python/commands.py"),
      Path.join(dir, "app/python/command.py")
    )

    {output, 1} = doctor(Path.join(dir, "app"))
    assert line(output, "adapter") =~ "no module 'commands' for the adapter commands:Commands"

    assert output =~
             "fix: add the directory of commands.py to paths:, or correct the name in class:"
  end

  test "shows why a worker does not start", %{tmp_dir: dir} do
    raising = %{
      "python/commands.py" =>
        @commands <> "\n    def __init__(self):\n        raise OSError('no model')\n"
    }

    {output, status} = doctor(project!(dir, "", raising))
    assert status == 1
    assert line(output, "adapter") =~ "ok "
    assert line(output, "worker") =~ "FAIL"
    assert output =~ "OSError: no model"
  end

  test "names a Python that is gone, and an environment that needs one", %{tmp_dir: dir} do
    {output, status} =
      doctor(project!(dir, ~s(python: "/nowhere/python3")), ["--pool", "App.Python"])

    assert status == 1

    assert line(output, "executable") =~
             "there is no Python to run: /nowhere/python3 does not exist"

    assert output =~ "fix: mix snakepit.setup"
  end

  # A Python that gives these answers to the first checks, and fails the others.
  defp answering!(dir, facts) do
    python = Path.join(dir, "answering/bin/python")
    File.mkdir_p!(Path.dirname(python))

    File.write!(python, """
    #!/bin/sh
    case "$2" in
      *sys.prefix*) printf '#{Enum.join(facts, "\\n")}\\n' ;;
      *__version__*) printf '#{Application.spec(:snakepit, :vsn)}\\n/nowhere/__init__.py\\n' ;;
      *) echo "no extension"; exit 69 ;;
    esac
    """)

    File.chmod!(python, 0o755)
    python
  end

  test "names the fix for a Python that is too old, free-threaded, or not that of its environment",
       %{tmp_dir: dir} do
    python = answering!(dir, ["3.8.18", "", "no", ""])
    prefix = Path.dirname(Path.dirname(python))
    project = project!(dir, "python: #{inspect(python)}")
    check = fn -> project |> doctor() |> elem(0) end
    output = check.()
    assert line(output, "Python") =~ "3.8.18 is too old"

    assert output =~
             ~s(--venv .venv-new, and python: ".venv-new/bin/python" in the pool's options)

    answering!(dir, ["3.14.0", "", "yes", "t"])
    output = check.()
    assert line(output, "Python") =~ "ok "
    assert line(output, "server") =~ "FAIL"
    assert output =~ "fix: mix snakepit.setup --python #{python}"

    answering!(dir, ["3.12.1", prefix, "yes", ""])
    File.write!(Path.join(prefix, "pyvenv.cfg"), "version = 3.11.2\n")
    output = check.()
    assert line(output, "Python") =~ "#{prefix} was made for Python 3.11 and is run by 3.12.1"
    assert output =~ "fix: delete #{prefix}, then mix snakepit.setup"
  end

  test "names a program that is no Python", %{tmp_dir: dir} do
    {output, status} = doctor(project!(dir, ~S(python: "/bin/true")))
    assert status == 1
    assert line(output, "Python") =~ "expected a Python, got a program that prints"
  end

  test "imports the command class with variables of any bytes", %{tmp_dir: dir} do
    code = ~s(import os\nassert os.environb[b"X"] == b"\\xff"\n)
    files = %{"python/commands.py" => code <> @commands}
    {output, status} = doctor(project!(dir, ~S(env: %{"X" => <<255>>}), files))
    assert status == 0, output
    assert line(output, "adapter") =~ "commands:Commands is imported"
  end

  test "finds an invalid configuration, and checks the installation nevertheless",
       %{tmp_dir: dir} do
    config = %{
      "config/runtime.exs" => "import Config\nconfig :snakepit, pool_config: %{pool_sise: 2}\n"
    }

    {output, status} = doctor(project!(dir, "", config))
    assert status == 1
    assert line(output, "configuration") =~ "FAIL"
    assert output =~ "pool_config: unknown option :pool_sise"
    assert line(output, "pools") =~ "none is defined: the built-in commands are tried instead"
    assert line(output, "worker") =~ "ok "
  end

  test "checks the pool of config :snakepit without starting anything", %{tmp_dir: dir} do
    config = %{
      "config/runtime.exs" => """
      import Config
      config :snakepit,
        adapter_args: [class: "commands:Commands", paths: ["python"]],
        pool_config: %{pool_size: 2}
      """
    }

    project = project!(dir, "no_such_option: 1", config)
    {output, status} = doctor(project, ["--no-start"])
    assert status == 0, output
    assert "pool Snakepit.Pool" in lines(output)
    refute output =~ "App.Python"

    {output, 1} = doctor(project)
    assert output =~ "unknown option :no_such_option"
    assert "pool App.Python" in lines(output)

    {output, 1} = doctor(project, ["--no-start", "--pool", "App.Other"])
    assert output =~ "there is no pool App.Other; the pools are: Snakepit.Pool"
  end

  test "works without the native library", %{tmp_dir: dir} do
    project = project!(dir)
    library = Project.own_library!(project)
    File.rm!(Path.join(library, "priv/native/snakepit_nif.so"))

    {output, status} =
      Project.mix(project, ["do", "loadpaths", "--no-deps-check", "+", "snakepit.doctor"])

    assert status == 1
    assert line(output, "native library") =~ "FAIL"
    assert output =~ "fix: mix deps.compile snakepit --force"
    assert line(output, "socket directory") =~ "-  "
    assert line(output, "adapter") =~ "ok "
    assert line(output, "worker") =~ "needs the native library"
  end
end
