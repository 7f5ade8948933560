defmodule Snakepit.Test.OS do
  @moduledoc false
  # Processes of the operating system, for the tests and for the fault suite.

  def alive?(os_pid) do
    # A process that has ended but was not reaped yet is not alive.
    case File.read("/proc/#{os_pid}/stat") do
      {:ok, stat} -> not String.contains?(stat, ") Z ")
      {:error, _} -> false
    end
  end

  @doc "Whether each thread of a process stands still after SIGSTOP, which takes them a moment."
  def stopped?(os_pid) do
    # A thread that has just ended has no file any more.
    paths = Path.wildcard("/proc/#{os_pid}/task/*/stat")
    stats = for path <- paths, {:ok, stat} <- [File.read(path)], do: stat
    stats != [] and Enum.all?(stats, &String.contains?(&1, ") T "))
  end
end
