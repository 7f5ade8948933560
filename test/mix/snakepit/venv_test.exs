defmodule Mix.Snakepit.VenvTest do
  use ExUnit.Case, async: true

  alias Mix.Snakepit.Venv
  alias Mix.Tasks.Snakepit.Setup

  @moduletag :tmp_dir

  # An environment whose Python prints its version, or whatever the script does.
  defp venv!(dir, script, config, uv \\ nil) do
    venv = Venv.new(Path.join(dir, "venv"), uv)
    File.mkdir_p!(Path.dirname(Venv.python(venv)))
    File.write!(Venv.python(venv), "#!/bin/sh\n#{script}\n")
    File.chmod!(Venv.python(venv), 0o755)
    File.write!(Path.join(venv.path, "pyvenv.cfg"), config)
    venv
  end

  defp refused(venv, wanted \\ nil),
    do: assert_raise(Mix.Error, fn -> Venv.ensure!(venv, wanted) end).message

  test "a version is the wanted one if all that is named of it agrees" do
    for {version, wanted, same?} <- [
          {"3.12.1", "3", true},
          {"3.12.1", "3.12", true},
          {"3.12.1", "3.12.1", true},
          {"3.12.1", "python3.12", true},
          {"3.12.1", "3.1", false},
          {"3.1.2", "3.12", false},
          {"3.12.1", "3.12.10", false},
          {"3.12.10", "3.12.1", false},
          {"3.14.0t", "3.14t", true},
          {"3.14.0t", "3t", true},
          {"3.14.0t", "3.14.0t", true},
          {"3.14.0t", "python3.14t", true},
          {"3.14.0t", "3.14", false},
          {"3.14.0t", "3", false},
          {"3.14.0t", "python3.14", false},
          {"3.14.0", "3.14t", false},
          {"3.14.0", "3.14.0t", false}
        ],
        do: assert({version, wanted, Venv.wanted?(version, wanted)} == {version, wanted, same?})
  end

  test "an environment with the wanted Python is left alone, whether or not that is in PATH",
       %{tmp_dir: dir} do
    for uv <- [nil, "/nowhere/uv"] do
      venv = venv!(dir, "echo 3.14.0t", "version_info = 3.14.0", uv)

      for wanted <- [nil, "3.14t", "python3.14t", Venv.python(venv)],
          do: assert(Venv.ensure!(venv, wanted) == "3.14.0t")

      message = refused(venv, "3.14")

      assert message =~
               "has Python 3.14.0t, not the Python of --python 3.14: delete the directory"

      assert message =~ "to keep it, leave --python out"
    end

    assert refused(venv!(dir, "echo 3.12.1", "", nil), "no-python") =~ "or install uv"
    message = refused(venv!(dir, "echo 3.12.1", "", "/nowhere/uv"), "no-python")
    assert message =~ "no-python was not found: --python takes a version"
    refute message =~ "install uv"
  end

  test "an environment whose Python has another minor version is refused", %{tmp_dir: dir} do
    # As venv and virtualenv write it, and as uv does.
    for key <- ["version", "version_info"] do
      config = "home = /usr/bin\n#{key} = 3.11.2\nprompt = 3.10\n"
      assert Venv.ensure!(venv!(dir, "echo 3.11.9", config), nil) == "3.11.9"
      message = refused(venv!(dir, "echo 3.12.1", config))
      assert message =~ "was made for Python 3.11 and is run by 3.12.1"
      assert message =~ "delete the directory"
    end

    # As those of conda.
    venv = venv!(dir, "echo 3.12.1", "")
    File.rm!(Path.join(venv.path, "pyvenv.cfg"))
    assert Venv.ensure!(venv, nil) == "3.12.1"
  end

  test "an environment whose Python is too old is refused before anything is installed",
       %{tmp_dir: dir} do
    # To all but its version it answers nothing.
    script = ~s(case "$3" in *version_info*\) echo 3.8.18 ;; esac)
    venv = venv!(dir, script, "version = 3.8.18")
    message = assert_raise(Mix.Error, fn -> Setup.set_up(venv, []) end).message
    assert message =~ "has Python 3.8.18, and Snakepit needs 3.9 or newer: delete the directory"
    assert message =~ "--python 3.12"
    assert Venv.ensure!(venv!(dir, "echo 3.9.0", ""), nil) == "3.9.0"
    assert Venv.ensure!(venv!(dir, "echo 3.10.0", ""), nil) == "3.10.0"
  end

  test "an environment whose Python does not run is refused", %{tmp_dir: dir} do
    venv = venv!(dir, "echo no libpython >&2; exit 127", "")
    message = refused(venv)
    assert message =~ "#{Venv.python(venv)} could not be run (status 127): no libpython: delete"
    File.chmod!(Venv.python(venv), 0o644)
    assert refused(venv) =~ "could not be run: permission denied: delete the directory"
  end
end
