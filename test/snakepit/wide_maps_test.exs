defmodule Snakepit.WideMapsTest do
  # Maps of more than 32 keys are built on threads that are not the BEAM's schedulers. Building
  # them as on a scheduler ends the BEAM.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error
  alias Snakepit.GRPC.Client

  # Around the size at which the BEAM hashes maps, and around those at which its sort changes its
  # method.
  @sizes [0, 31, 32, 33, 34, 64, 99, 100, 101, 128, 129, 130, 131, 200, 1_000, 5_000]

  defmodule Liar do
    use Snakepit.Test.ServerAdapter, script: "lying_server.py"
  end

  for {way, options} <- ways() do
    describe "#{way}:" do
      setup do
        args = [class: "many_commands:Many", paths: ["test/support/python"]]
        %{pool: start_pool!([adapter_args: args] ++ unquote(options))}
      end

      test "an adapter with 200 commands describes itself", %{pool: pool} do
        for _ <- 1..5 do
          assert {:ok, %{commands: commands}} = Snakepit.info(pool)
          assert map_size(commands) > 200
          assert commands["command199"] =~ "Returns 199."
          assert {:ok, %{healthy: true, workers: [_]}} = Snakepit.health(pool)
          assert {:ok, %{ready: 1}} = Snakepit.stats(pool)
          assert {:ok, [%{state: :ready, uptime_ms: uptime}]} = Snakepit.list_workers(pool)
          assert is_integer(uptime)
        end
      end

      test "results, chunks and the data of errors may have any number of keys", %{pool: pool} do
        me = self()

        for size <- @sizes do
          wide = for number <- 0..(size - 1)//1, into: %{}, do: {"key#{number}", number}
          expected = Map.put(wide, "inner", wide)
          data = %{"inner" => wide, "list" => [wide]}
          args = %{keys: size}
          assert {:ok, ^expected} = Snakepit.execute("wide", args, pool: pool)
          result = Snakepit.execute("fail_wide", args, pool: pool)
          assert {:error, %Error{reason: :command_error, details: %{data: ^data}}} = result

          if unquote(way) != :Stdio do
            result = Snakepit.execute_stream("wide_chunks", args, &send(me, &1), pool: pool)
            assert {:error, %Error{reason: :command_error, details: %{data: ^data}}} = result
            chunk = Map.put(expected, "is_final", false)
            assert_received ^chunk
          end
        end
      end
    end
  end

  test "a server's thousand entries of system and capabilities arrive" do
    pool = start_server_pool!(Liar)
    assert {:ok, %{commands: commands, system: system}} = Snakepit.info(pool)
    assert map_size(commands) == 1_000 and map_size(system) == 1_000
    assert {:ok, %{healthy: true}} = Snakepit.health(pool)
    assert {:ok, [%{uptime_ms: 1}]} = Snakepit.list_workers(pool)
  end

  test "the plain rules support any number of arguments" do
    wide = Map.new(1..1_000, &{"key#{&1}", "#{&1}"})
    assert Client.encode_args(wide) == wide
    assert Client.decode_result(wide) == Map.new(1..1_000, &{"key#{&1}", &1})
  end
end
