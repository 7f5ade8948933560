defmodule Mix.Snakepit.StampTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Files, only: [put!: 3]

  alias Mix.Snakepit.{Files, Stamp}

  @moduletag :tmp_dir
  @facts [{"version", "1.0.0"}, {"machine", "x86_64-unknown-linux-gnu"}, {"source", "sha256:1"}]

  setup %{tmp_dir: dir} do
    file = Path.join(dir, "library.so")
    File.write!(file, "library")
    {:ok, library: file, stamp: Path.join(dir, "libraries.txt")}
  end

  test "files are wanted as they are only with every fact and content", context do
    %{library: file, stamp: stamp} = context
    assert Stamp.stale(stamp, @facts, [file]) == "it is not known what they are"
    Stamp.write!(stamp, @facts ++ [{"target", "x"}], [file])
    assert Stamp.stale(stamp, @facts, [file]) == nil

    for {name, value} <- [
          {"version", "1.0.1"},
          {"machine", "aarch64-apple-darwin"}
        ] do
      facts = List.keyreplace(@facts, name, 0, {name, value})
      {_, old} = List.keyfind(@facts, name, 0)
      assert Stamp.stale(stamp, facts, [file]) == "their #{name} is #{old}, not #{value}"
    end
  end

  test "files that were made from something else are not wanted", context do
    %{library: file, stamp: stamp} = context
    Stamp.write!(stamp, @facts, [file])
    facts = List.keyreplace(@facts, "source", 0, {"source", "sha256:2"})
    assert Stamp.stale(stamp, facts, [file]) == "they were made from something else"
  end

  test "another file in its place is recognized, also with the same time and size", context do
    %{library: file, stamp: stamp} = context
    Stamp.write!(stamp, @facts, [file])
    %{mtime: time} = File.stat!(file, time: :posix)
    File.write!(file, "LIBRARY")
    File.touch!(file, time)
    assert Stamp.stale(stamp, @facts, [file]) == "#{file} is missing or has changed"
    File.rm!(file)
    assert Stamp.stale(stamp, @facts, [file]) == "#{file} is missing or has changed"
    File.rm!(stamp)
    assert Stamp.stale(stamp, @facts, [file]) == "they are missing"
  end

  test "a directory is mirrored by content, whatever the times of its files are", context do
    %{tmp_dir: dir} = context
    [from, to] = for name <- ~w(from to), do: Path.join(dir, name)
    for name <- ~w(a.py sub/b.py c.pyc), do: put!(from, name, "1")
    assert Files.mirror!(from, to, "**/*.py")
    assert names(to) == ~w(a.py sub/b.py)
    refute Files.mirror!(from, to, "**/*.py")

    put!(from, "a.py", "2")
    for name <- ~w(from/a.py to/a.py), do: File.touch!(Path.join(dir, name), 0)
    assert Files.mirror!(from, to, "**/*.py")
    assert File.read!(Path.join(to, "a.py")) == "2"

    File.rm!(Path.join(from, "sub/b.py"))
    assert Files.mirror!(from, to, "**/*.py")
    assert names(to) == ~w(a.py)
  end

  test "a file is replaced, never written into", %{library: file} do
    {:ok, opened} = File.open(file)
    Files.write!(file, "another", 0o755)
    assert IO.read(opened, :eof) == "library"
    assert File.read!(file) == "another"
    assert Bitwise.band(File.stat!(file).mode, 0o777) == 0o755
    assert File.ls!(Path.dirname(file)) == ["library.so"]
  end

  defp names(dir) do
    for path <- Path.wildcard(Path.join(dir, "**")),
        File.regular?(path),
        do: Path.relative_to(path, dir)
  end
end
