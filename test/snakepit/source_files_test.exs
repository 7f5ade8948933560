defmodule Snakepit.SourceFilesTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Files, only: [put!: 3]

  alias Snakepit.Pool.SourceFiles

  @moduletag :tmp_dir

  test "a file that is new, gone or has other content has changed", %{tmp_dir: dir} do
    for name <- ~w(kept.py edited.py gone.py package/module.py), do: put!(dir, name, "1")
    before = SourceFiles.read([dir])
    put!(dir, "kept.py", "1")
    # The same size, and most likely within the same second.
    put!(dir, "edited.py", "2")
    put!(dir, "package/module.py", "2")
    put!(dir, "package/new.py", "")
    File.rm!(Path.join(dir, "gone.py"))
    now = SourceFiles.read([dir], before)

    assert changed(before, now, dir) == ~w(edited.py gone.py package/module.py package/new.py)
    assert SourceFiles.changed(now, SourceFiles.read([dir], now)) == []
  end

  test "a change that keeps size and time is seen if both are old or new",
       %{tmp_dir: dir} do
    path = put!(dir, "module.py", "1")
    old = System.os_time(:second) - 1000
    File.touch!(path, old)
    before = SourceFiles.read([dir])
    put!(dir, "module.py", "2")
    File.touch!(path, old)
    assert changed(before, SourceFiles.read([dir], before), dir) == ["module.py"]
  end

  test "other files are ignored, and those of environments, caches and hidden directories",
       %{tmp_dir: dir} do
    put!(dir, "env/pyvenv.cfg", "")

    for name <- ~w(module.pyc data.txt py .hidden.py .git/hook.py .venv/bin/x.py __pycache__/x.py
                   node_modules/x/y.py _build/dev/x.py env/lib/x.py lib/site-packages/x.py),
        do: put!(dir, name, "")

    put!(dir, "deep/er/module.py", "")
    assert paths(SourceFiles.read([dir]), dir) == ["deep/er/module.py"]
  end

  test "links are followed, but not in circles", %{tmp_dir: dir} do
    put!(dir, "there/module.py", "")
    File.mkdir!(Path.join(dir, "root"))
    File.ln_s!(Path.join(dir, "there"), Path.join(dir, "root/here"))
    File.ln_s!(Path.join(dir, "root"), Path.join(dir, "there/back"))
    File.ln_s!("nowhere", Path.join(dir, "there/dangling.py"))
    root = Path.join(dir, "root")
    assert paths(SourceFiles.read([root, root]), root) == ["here/module.py"]
  end

  test "a missing directory has no files, and may appear later", %{tmp_dir: dir} do
    root = Path.join(dir, "later")
    assert SourceFiles.read([root]) == %{}
    put!(dir, "later/module.py", "")
    assert changed(%{}, SourceFiles.read([root]), root) == ["module.py"]
  end

  test "names may be any bytes", %{tmp_dir: dir} do
    path = dir <> "/" <> <<255>> <> "ü.py"
    :ok = :file.write_file(path, "1")
    assert SourceFiles.read([dir]) |> Map.keys() == [path]
  end

  defp changed(before, now, dir),
    do: SourceFiles.changed(before, now) |> Enum.map(&Path.relative_to(&1, dir)) |> Enum.sort()

  defp paths(files, dir),
    do: files |> Map.keys() |> Enum.map(&Path.relative_to(&1, dir)) |> Enum.sort()
end
