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
end
