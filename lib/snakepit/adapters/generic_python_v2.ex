defmodule Snakepit.Adapters.GenericPythonV2 do
  @moduledoc """
  Runs commands written in Python, over stdin and stdout.

      {Snakepit.Pool,
       name: MyApp.Python,
       adapter: Snakepit.Adapters.GenericPythonV2,
       adapter_args: [class: "my_app.commands:Commands", paths: ["python"]]}

  It takes the same `adapter_args` and command classes as `Snakepit.Adapters.GRPCPython`, and
  needs only Python itself. It does not support streams: they fail with
  `:streaming_not_supported`.
  """
  @behaviour Snakepit.Adapter

  alias Snakepit.Adapters.Python

  @impl true
  def uses_grpc?, do: false

  @impl true
  def executable_path, do: Python.executable()

  @impl true
  defdelegate validate_options(options), to: Python

  @impl true
  def command_line(worker), do: Python.command_line(worker, ["--stdio"])
end
