defmodule Snakepit.GRPCPythonTest do
  # One worker by its address, without a pool.
  use ExUnit.Case, async: true

  alias Snakepit.Adapters.GRPCPython
  alias Snakepit.Error

  test "connects to a worker by its port and its address, calls it and streams from it" do
    args = ~w(-u -m snakepit_bridge --listen tcp:127.0.0.1:0)
    env = [{~c"PYTHONPATH", to_charlist(Application.app_dir(:snakepit, "priv/python"))}]
    python = System.find_executable(GRPCPython.executable_path())
    options = [:binary, line: 1000, args: args, env: env]
    server = Port.open({:spawn_executable, python}, options)
    assert_receive {^server, {:data, {:eol, "listening on tcp:127.0.0.1:" <> port}}}
    {:os_pid, os_pid} = Port.info(server, :os_pid)
    on_exit(fn -> System.cmd("kill", [to_string(os_pid)]) end)

    for address <- [String.to_integer(port), "tcp:127.0.0.1:" <> port] do
      assert {:ok, connection} = GRPCPython.init_grpc_connection(address)
      assert {:ok, %{"a" => 1}} = GRPCPython.grpc_execute(connection, "echo", %{a: 1}, 60_000)
      me = self()
      count = %{count: 2}
      collect = &send(me, {:chunk, &1["is_final"]})

      assert :ok =
               GRPCPython.grpc_execute_stream(connection, "ping_stream", count, collect, 60_000)

      assert_received {:chunk, false}
      assert_received {:chunk, true}
    end

    assert {:error, %Error{}} = GRPCPython.init_grpc_connection("nowhere")
  end
end
