defmodule Mix.Snakepit.ArchiveTest do
  # Changes the working directory.
  use ExUnit.Case

  alias Mix.Snakepit.Archive

  @moduletag :tmp_dir

  test "has the name that rustler_precompiled gives it" do
    assert Archive.name("1.2.3", "x86_64-unknown-linux-gnu") ==
             "libsnakepit_nif-v1.2.3-nif-2.15-x86_64-unknown-linux-gnu.so.tar.gz"
  end

  test "returns the files that are packed, and is the same each time", %{tmp_dir: dir} do
    [one, other] = for name <- ~w(one.tar.gz other.tar.gz), do: Path.join(dir, name)
    file = Path.join(dir, "library")
    File.write!(file, "content")
    Archive.pack!(one, [{"a.so", file}, {"b", file}])
    File.touch!(file, 0)
    Archive.pack!(other, [{"a.so", file}, {"b", file}])

    assert File.read!(one) == File.read!(other)
    assert Archive.unpack(File.read!(one), ["a.so"]) == {:ok, %{"a.so" => "content"}}
    assert {:error, "it does not contain c"} = Archive.unpack(File.read!(one), ["a.so", "c"])
  end

  test "is not trusted: its paths lead nowhere, and only the files that are asked for count",
       %{tmp_dir: dir} do
    inside = Path.join(dir, "inside")
    File.mkdir_p!(inside)
    path = Path.join(dir, "hostile.tar.gz")
    {:ok, tar} = :erl_tar.open(path, [:write, :compressed])
    for name <- [~c"../escaped", ~c"/tmp/absolute", ~c"a.so", ~c"more"], do: add(tar, name)
    File.ln_s!("/etc/passwd", Path.join(dir, "link"))
    :ok = :erl_tar.add(tar, to_charlist(Path.join(dir, "link")), ~c"link", [])
    :ok = :erl_tar.close(tar)

    archive = File.read!(path)
    File.cd!(inside, fn -> assert {:ok, _} = Archive.unpack(archive, ["a.so"]) end)
    assert Archive.unpack(archive, ["a.so"]) == {:ok, %{"a.so" => "content"}}
    assert {:error, "it does not contain link"} = Archive.unpack(archive, ["link"])
    refute File.exists?(Path.join(dir, "escaped"))
    assert File.ls!(inside) == []
  end

  test "that is none is an error" do
    assert {:error, "it is not a tar.gz archive" <> _} = Archive.unpack("<html>", ["a.so"])
    assert {:error, _} = Archive.unpack(:zlib.gzip("not a tar"), ["a.so"])
  end

  test "checksums are written and read; a checkout has none", %{tmp_dir: dir} do
    assert Archive.checksums(dir) == %{}
    archive = Path.join(dir, "a.tar.gz")
    File.write!(archive, "content")
    assert Path.basename(Archive.write_checksums!(dir, [archive])) =~ ~r/^checksum-.*\.exs$/

    assert Archive.checksums(dir) == %{
             "a.tar.gz" =>
               "sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
           }
  end

  defp add(tar, name), do: :ok = :erl_tar.add(tar, "content", name, [])
end
