defmodule Snakepit.FallbackTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{AdapterFallback, Error}
  alias Snakepit.Adapters.{GenericPythonV2, GRPCPython}

  # Workers that may not open sockets.
  @no_sockets [env: %{"PYTHONPATH" => Path.expand("../support/python/no_sockets", __DIR__)}]
  @fallback [fallback_adapter: GenericPythonV2]

  test "a pool without gRPC starts the fallback's workers, and reports it once" do
    me = self()
    event = [:snakepit, :pool, :fallback]
    :ok = :telemetry.attach({__MODULE__, me}, event, &__MODULE__.tell/4, me)

    log =
      capture_log(fn ->
        pool = start_pool_unready!(@no_sockets ++ @fallback ++ [size: 2])
        # It waits from the start on, and the fallback serves it.
        assert {:ok, %{"status" => "ok"}} = Snakepit.execute("ping", %{}, pool: pool)
        assert :ok = await_ready(pool)

        assert_receive {^event, %{system_time: _}, %{pool: ^pool, adapter: GRPCPython} = metadata}
        assert %{fallback_adapter: GenericPythonV2, why: reason} = metadata
        assert reason =~ "cannot create a socket"

        assert {:ok, %{adapter: GenericPythonV2, ready: 2, fallback: fallback}} =
                 Snakepit.stats(pool)

        assert fallback == %{adapter: GRPCPython, reason: reason}

        assert {:error, %Error{reason: :streaming_not_supported}} =
                 Snakepit.execute_stream("ping_stream", %{}, & &1, pool: pool)

        refute_received {^event, _, %{pool: ^pool}}
        send(me, {:pool, pool})
      end)

    assert_receive {:pool, pool}
    assert [_, _] = String.split(log, "the pool #{inspect(pool)} falls back to")
  end

  def tell(event, measurements, metadata, pid), do: send(pid, {event, measurements, metadata})

  test "without a fallback every call reports that there is no gRPC" do
    pool = start_pool_unready!(@no_sockets)
    assert {:error, %Error{reason: :grpc_unavailable}} = await_ready(pool)

    assert {:error, %Error{reason: :grpc_unavailable, message: message}} =
             Snakepit.execute("ping", %{}, pool: pool)

    assert message =~ "cannot create a socket"
  end

  test "a pool that fails for another reason does not fall back" do
    args = [class: "nowhere:Class"]
    pool = start_pool_unready!(@fallback ++ [adapter_args: args])
    assert {:error, %Error{reason: :worker_start_failed}} = await_ready(pool)
    assert {:ok, %{adapter: GRPCPython, fallback: nil}} = Snakepit.stats(pool)
  end

  describe "execute_with_fallback/3" do
    test "runs the call with the fallback's workers if the pool has no gRPC" do
      pool = start_pool_unready!(@no_sockets)
      options = [pool: pool] ++ @fallback

      for n <- 1..2 do
        assert {:ok, %{"result" => ^n}} =
                 AdapterFallback.execute_with_fallback("add", %{a: n}, options)
      end

      assert {:error, %Error{reason: :grpc_unavailable}} =
               AdapterFallback.execute_with_fallback("add", %{a: 1}, pool: pool)

      assert [worker] = os_pids(:"#{pool}.Fallback")
      :ok = stop_supervised({Snakepit.Pool, pool})
      eventually(fn -> not alive?(worker) end)
    end

    test "leaves any other result alone" do
      pool = start_pool!()
      options = [pool: pool] ++ @fallback

      assert {:ok, %{"result" => 3}} =
               AdapterFallback.execute_with_fallback("add", %{a: 3}, options)

      assert {:error, %Error{reason: :python_error}} =
               AdapterFallback.execute_with_fallback("fail", %{message: "m"}, options)

      assert os_pids(:"#{pool}.Fallback") == []
    end
  end
end
