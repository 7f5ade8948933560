alias Snakepit.Adapters.{GenericPythonV2, GRPCPython}

for {kind, options} <- [
      GRPCPoolOf1: [adapter: GRPCPython, size: 1],
      GRPCPoolOf2: [adapter: GRPCPython, size: 2],
      # With the other server only the transport differs.
      GRPCIOPoolOf1: [adapter: GRPCPython, server: :grpcio, size: 1],
      # The servers run already; the pool only connects to them.
      RemotePoolOf2: [remote: true, size: 2],
      StdioPoolOf1: [adapter: GenericPythonV2, size: 1],
      StdioPoolOf2: [adapter: GenericPythonV2, size: 2]
    ] do
  defmodule Module.concat(Snakepit, "#{kind}Test") do
    use Snakepit.Test.WorkerSuite, options
  end
end
