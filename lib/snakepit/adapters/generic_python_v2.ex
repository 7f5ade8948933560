defmodule Snakepit.Adapters.GenericPythonV2 do
  @moduledoc """
  Runs commands written in Python, over stdin and stdout.

      {Snakepit.Pool,
       name: MyApp.Python,
       adapter: Snakepit.Adapters.GenericPythonV2,
       adapter_args: [class: "my_app.commands:Commands", paths: ["python"]]}

  It takes the `adapter_args` and the class of commands of `Snakepit.Adapters.GRPCPython`, and needs
  nothing but Python. What it has not is streams: they fail with `:streaming_not_supported`.
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
