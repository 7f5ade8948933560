for {kind, adapter} <- [
      GRPC: Snakepit.Adapters.GRPCPython,
      Stdio: Snakepit.Adapters.GenericPythonV2
    ],
    size <- [1, 4] do
  defmodule Module.concat(Snakepit, "#{kind}PoolOf#{size}Test") do
    use Snakepit.Test.WorkerSuite, adapter: adapter, size: size
  end
end
