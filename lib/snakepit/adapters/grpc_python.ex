defmodule Snakepit.Adapters.GRPCPython do
  @moduledoc """
  Runs commands written in Python, over gRPC.

      {Snakepit.Pool,
       name: MyApp.Python,
       adapter_args: [class: "my_app.commands:Commands", paths: ["python"]]}

  `adapter_args`:

    * `:class` - the command class, `"module:Class"`; by default the built-in commands (`ping`,
      `echo`, `compute`, `info`, `ping_stream`)
    * `:paths` - directories to import from: `{:my_app, "priv/python"}` for one within an
      application, or a path; a relative path starts from the pool's `:root`

    * `:init` - the keyword arguments of the class's `__init__`: a map or a keyword list, with the
      same types of values as the arguments of calls. They are written to the worker's standard
      input, so that neither its command line nor its environment shows them, and neither does any
      log, error or inspected term

  The pool's `:python` names the executable, in the same way. By default it is `.venv/bin/python`
  in the pool's `:root` if that exists, otherwise `python3`. The native server needs no package;
  for the grpcio server (`server: :grpcio`) run `mix snakepit.setup --grpcio`.
  """
  @behaviour Snakepit.Adapter

  alias Snakepit.Adapters.Python
  alias Snakepit.GRPC.Client

  @impl true
  def uses_grpc?, do: true

  @impl true
  def executable_path, do: Python.executable()

  @impl true
  defdelegate validate_options(options), to: Python

  @impl true
  def command_line(worker), do: Python.command_line(worker, ["--listen", worker.listen])

  @impl true
  def init_grpc_connection(port) when is_integer(port),
    do: Client.connect("tcp:127.0.0.1:#{port}")

  def init_grpc_connection(address), do: Client.connect(address)

  @impl true
  def grpc_execute(connection, command, args, timeout \\ 30_000),
    do: Client.execute(connection, command, args, timeout: timeout)

  @impl true
  def grpc_execute_stream(connection, command, args, callback, timeout \\ 30_000),
    do: Client.execute_stream(connection, command, args, callback, timeout: timeout)
end
