defmodule Snakepit.TelemetryTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Telemetry}

  @moduletag :tmp_dir

  setup do
    me = self()

    for event <- Telemetry.events() do
      :ok = :telemetry.attach({me, event}, event, &__MODULE__.tell/4, me)
    end

    :ok
  end

  def tell(event, measurements, metadata, pid), do: send(pid, {event, measurements, metadata})

  defp assert_ended(pool, command, how) do
    assert_receive {[:snakepit, :call, :cancelled], %{duration: duration},
                    %{pool: ^pool, command: ^command} = metadata}

    assert duration > 0
    assert %{how: ^how, request_id: request_id, worker_id: worker_id} = metadata
    assert byte_size(request_id) > 0 and byte_size(worker_id) > 0
  end

  test "a stream that is halted has its generator closed", %{tmp_dir: dir} do
    pool = start_pool!()
    args = %{closed: Path.join(dir, "closed")}
    :ok = Snakepit.execute_stream("endless", args, fn _ -> :halt end, pool: pool)
    assert_ended(pool, "endless", :closed)
    assert File.exists?(args.closed)
  end

  test "an async stream that is halted has its task cancelled" do
    pool = start_pool!()
    args = %{count: 1_000_000}
    :ok = Snakepit.execute_stream("counted_async", args, fn _ -> :halt end, pool: pool)
    assert_ended(pool, "counted_async", :closed)
  end

  test "a handler that notices its cancellation stops by itself", %{tmp_dir: dir} do
    pool = start_pool!()
    options = [pool: pool, timeout: 100, request_id: "mine"]

    assert {:error, %Error{reason: :timeout}} =
             Snakepit.execute("wait_cancelled", %{seen: Path.join(dir, "seen")}, options)

    assert_ended(pool, "wait_cancelled", :stopped)
  end

  test "a handler that goes on past the grace is killed" do
    pool = start_pool!(kill_grace: 100)

    assert {:error, %Error{reason: :timeout}} =
             Snakepit.execute("sleep", %{seconds: 600}, pool: pool, timeout: 100)

    assert_ended(pool, "sleep", :killed)
  end

  test "a call that runs to its end is not reported" do
    pool = start_pool!()
    :ok = Snakepit.execute_stream("counted", %{count: 3}, fn _ -> nil end, pool: pool)
    {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
    refute_received {[:snakepit, :call, :cancelled], _measurements, %{pool: ^pool}}
  end
end
