defmodule Snakepit.Adapter do
  @moduledoc """
  How a pool starts its workers. `Snakepit.Adapters.GRPCPython` is the one that comes with Snakepit.

  A worker is an operating-system process that serves `proto/snakepit.proto` at the address it is
  told. Once it listens it writes a line to its standard output: the text of the environment
  variable `SNAKEPIT_READY_TOKEN`, a space and its address (`unix:/path` or `tcp:127.0.0.1:port`).
  It leaves when its standard input ends. What else it prints is logged.
  """

  @typedoc """
  What the pool knows of a worker before it starts:

    * `:id` - the worker's name in logs and errors
    * `:listen` - where to listen, `unix:/path` or `tcp:127.0.0.1:0` (any port)
    * `:options` - the pool's options, complete
  """
  @type worker :: %{id: String.t(), listen: String.t(), options: map}

  @doc "Whether workers speak gRPC."
  @callback uses_grpc?() :: boolean

  @doc """
  The executable, its arguments and environment variables (names to strings) of one worker, or a
  message that says why there is none and what to do.
  """
  @callback command_line(worker) ::
              {:ok, {Path.t(), [String.t()], [{String.t(), String.t()}]}} | {:error, String.t()}
end
