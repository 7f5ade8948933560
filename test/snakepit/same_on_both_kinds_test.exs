defmodule Snakepit.SameOnBothKindsTest do
  # Compares what the kinds of workers report.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Adapters.{GenericPythonV2, GRPCPython}
  alias Snakepit.Error

  setup_all do
    paths = [Path.expand("../support/python", __DIR__)]
    options = [adapter_args: [class: "error_commands:ErrorCommands", paths: paths]]
    pools = for kind <- [GRPCPython, GenericPythonV2], do: start_pool!([adapter: kind] ++ options)
    %{pools: pools}
  end

  test "an exception has its frames, notes and causes", %{pools: pools} do
    [one, other] = for pool <- pools, do: error("chained", pool)

    assert %{reason: :python_error, details: %{cause: %{type: "error_commands.MissingError"}}} =
             one

    assert Map.drop(one, [:pool, :worker_id, :request_id]) ==
             Map.drop(other, [:pool, :worker_id, :request_id])
  end

  test "a command's own error has its code and data", %{pools: pools} do
    for pool <- pools do
      assert %{reason: :command_error, details: %{code: "denied", data: nil}} =
               error("bare_code", pool)
    end
  end

  test "a pool describes its workers", %{pools: pools} do
    [one, other] =
      for pool <- pools do
        {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
        # Repeats until they answer in time, on a slow machine.
        assert eventually(fn ->
                 match?({:ok, %{healthy: true, ready: 1}}, Snakepit.health(pool))
               end)

        {:ok, info} =
          eventually(fn -> with({:ok, %{commands: nil}} <- Snakepit.info(pool), do: nil) end)

        {:ok, [worker]} =
          eventually(fn ->
            with({:ok, [%{requests: nil}]} <- Snakepit.list_workers(pool), do: nil)
          end)

        assert worker.os_pid in os_pids(pool)
        assert worker.requests > 0 and worker.memory_bytes > 0 and worker.uptime_ms >= 0
        {Map.keys(worker), info.commands, info.worker_type}
      end

    assert one == other
  end

  @tag :tmp_dir
  test "a stream over stdin and stdout is refused before it takes a place", %{tmp_dir: dir} do
    pool = start_pool!(adapter: GenericPythonV2, max_queue: 0)
    args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
    held = Task.async(fn -> Snakepit.execute("hold", args, pool: pool) end)
    eventually(fn -> File.exists?(args.started) end)

    assert {:error, %Error{reason: :unknown_command, pool: ^pool}} =
             Snakepit.execute_stream(<<255>>, %{}, & &1, pool: pool)

    assert {:error, %Error{reason: :streaming_not_supported, pool: ^pool}} =
             Snakepit.execute_stream("ping_stream", %{}, & &1, pool: pool)

    assert {:error, %Error{reason: :streaming_not_supported}} =
             Snakepit.start_stream("ping_stream", %{}, pool: pool)

    File.touch!(args.until)
    assert {:ok, _} = await(held)
  end

  defp error(command, pool) do
    {:error, error} = Snakepit.execute(command, %{}, pool: pool)
    error
  end
end
