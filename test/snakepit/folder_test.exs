defmodule Snakepit.FolderTest do
  use ExUnit.Case, async: true

  alias Snakepit.Pool.Folder

  test "a folder is taken away once nobody owns it, by who makes the next" do
    parent = Path.join("/tmp", "sp-#{System.unique_integer([:positive])}-#{System.pid()}")
    File.mkdir!(parent)
    on_exit(fn -> File.rm_rf!(parent) end)
    test = self()

    owner =
      spawn(fn ->
        send(test, Folder.make!(parent))
        Process.sleep(:infinity)
      end)

    assert_receive folder
    File.write!(Path.join(folder, "1.stderr"), "")
    assert Bitwise.band(File.stat!(folder).mode, 0o777) == 0o700
    second = Folder.make!(parent)
    assert File.exists?(folder)

    monitor = Process.monitor(owner)
    Process.exit(owner, :kill)
    assert_receive {:DOWN, ^monitor, :process, _, _}
    third = Folder.make!(parent)
    refute File.exists?(folder)
    assert File.exists?(second) and File.exists?(third)
  end
end
