defmodule Mix.Snakepit.Doctor.MachineTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Files, only: [put!: 3]

  alias Mix.Snakepit.Doctor.Machine

  # Those of a small BEAM, and of macOS.
  @limits %{files: %{used: 20, limit: 256}, processes: %{used: 20, limit: 2_666}}

  test "a few workers fit into the open files that macOS allows" do
    assert [%{status: :ok, text: text}, %{status: :ok}] = limits(4)
    assert text == "256 allowed, about 116 are needed at most"
    assert [%{status: :ok}, %{status: :ok}] = limits(16)
  end

  test "workers that do not fit are named with the limit that they need" do
    assert [files, %{status: :ok}] = limits(100)
    assert %{status: :failed, text: "256 allowed, about 884 may be needed"} = files
    assert files.fix =~ "ulimit -n 884"

    few = %{@limits | processes: %{used: 20, limit: 64}}
    assert [%{status: :ok}, %{status: :failed, fix: fix}] = limits(4, few)
    assert fix =~ "ulimit -u 88;"
  end

  test "a limit that is none is no reason to fail" do
    none = %{files: %{used: 20, limit: :unlimited}, processes: %{used: 20, limit: :unlimited}}

    assert [%{status: :ok, text: "no limit"}, %{status: :ok, text: "no limit"}] =
             limits(1_000, none)
  end

  test "the limits of this machine, and what is used of them, are read" do
    assert [%{name: "open files"} = files, %{name: "processes"}] = Machine.limits([])
    assert files.text == "no limit" or files.text =~ ~r/^\d+ allowed, about \d+ /
  end

  @tag :tmp_dir
  test "a limit of processes counts in each group of a process, of both versions of cgroups",
       %{tmp_dir: root} do
    assert Machine.group_limits(root) == []

    put!(
      root,
      "proc/self/cgroup",
      "12:pids:/old/app\n3:cpu:/other\n0::/system.slice/app.service\n"
    )

    put!(root, "sys/fs/cgroup/pids.max", "max\n")
    put!(root, "sys/fs/cgroup/system.slice/pids.max", "900\n")
    put!(root, "sys/fs/cgroup/system.slice/app.service/pids.max", "1024\n")
    put!(root, "sys/fs/cgroup/pids/old/app/pids.max", "800\n")
    put!(root, "sys/fs/cgroup/pids/other/pids.max", "7\n")
    assert Enum.sort(Machine.group_limits(root)) == [800, 900, 1024, :unlimited]
  end

  defp limits(size, read \\ @limits),
    do: Machine.limits([%{size: size, max_concurrency: 1}], read)
end
