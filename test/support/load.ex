defmodule Snakepit.Test.Load do
  @moduledoc false
  # What a test runs on another node.

  # The library itself, if that is used, has no such function.
  @compile {:no_warn_undefined, :telemetry}

  @doc "Creates the table of telemetry's handlers, which belongs to the calling process, and keeps it."
  def hold_telemetry do
    :telemetry.start()
    Process.sleep(:infinity)
  end

  @doc "Calls the pool of that node, one time with success and one time without, until it is gone."
  def call do
    {:ok, _} = Snakepit.execute("ping")
    {:error, _} = Snakepit.execute("compute", %{operation: "divide", a: 1, b: 0})
    Process.sleep(1)
    call()
  end
end
