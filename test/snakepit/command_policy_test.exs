defmodule Snakepit.CommandPolicyTest do
  # What an adapter rejects before a call takes a worker.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Adapters.GRPCPython
  alias Snakepit.Error

  defmodule Strict do
    @behaviour Snakepit.Adapter

    @impl true
    defdelegate uses_grpc?, to: GRPCPython
    @impl true
    defdelegate executable_path, to: GRPCPython
    @impl true
    defdelegate command_line(worker), to: GRPCPython

    @impl true
    def supported_commands, do: ~w(add pid sleep wait_cancelled)

    @impl true
    def validate_command("add", %{a: a}) when not is_integer(a), do: {:error, "a is no integer"}

    def validate_command("add", %{a: 0}),
      do: {:error, %Error{reason: :rpc_error, message: "none"}}

    def validate_command(_command, _args), do: :ok

    @impl true
    def command_timeout("wait_cancelled", _args), do: 50
    def command_timeout(_command, _args), do: nil
  end

  setup_all do
    %{pool: start_pool!(adapter: Strict)}
  end

  test "unknown commands are refused, for streams too", %{pool: pool} do
    assert {:error, %Error{reason: :unknown_command, pool: ^pool, message: message}} =
             Snakepit.execute("ping", %{}, pool: pool)

    assert message =~ "add, pid, sleep, wait_cancelled"

    assert {:error, %Error{reason: :unknown_command}} =
             Snakepit.execute_stream("ping_stream", %{}, & &1, pool: pool)
  end

  test "arguments are refused with a message or an error of the adapter's own", %{pool: pool} do
    assert {:ok, %{"result" => 3}} = Snakepit.execute("add", %{a: 1, b: 2}, pool: pool)

    assert {:error, %Error{reason: :invalid_args, command: "add", message: "a is no integer"}} =
             Snakepit.execute("add", %{a: "1"}, pool: pool)

    assert {:error, %Error{reason: :rpc_error, command: "add", message: "none"}} =
             Snakepit.execute("add", %{a: 0}, pool: pool)
  end

  @tag :tmp_dir
  test "a command's timeout holds unless the call has its own", %{pool: pool, tmp_dir: dir} do
    args = %{seen: Path.join(dir, "seen")}

    assert {:error, %Error{reason: :timeout, message: message}} =
             Snakepit.execute("wait_cancelled", args, pool: pool)

    assert message =~ "50 ms"

    assert {:error, %Error{reason: :timeout, message: message}} =
             Snakepit.execute("wait_cancelled", args, pool: pool, timeout: 100)

    assert message =~ "100 ms"
  end
end
