defmodule Snakepit.SharedServerTest do
  # Several pools use one server, as those of several nodes do.
  use ExUnit.Case, async: true

  import Snakepit.Test.{Pools, Servers}

  alias Snakepit.GRPC.{Channel, Client}
  alias Snakepit.Native

  for server <- ~w(native grpcio) do
    test "each pool has its own sessions on a #{server} server, whatever their ids are" do
      %{address: address} = start_server!(server: unquote(server))
      [first, second] = for _ <- 1..2, do: pool!(address)
      for n <- 1..5, do: assert(tally(first, "other #{n}") == 1)
      counts = for _ <- 1..3, pool <- [first, second], do: tally(pool, "s")
      assert counts == [1, 1, 2, 2, 3, 3]
      # The dispatcher has no such session any more, and the server drops its state.
      assert Native.pool_end_session(second, "s")
      assert tally(second, "s") == 1
      assert tally(first, "s") == 4
    end
  end

  defp tally(pool, session) do
    options = [session_id: session, timeout: patience()]
    assert {:ok, %{"count" => count}} = Client.execute(pool, "tally", %{}, options)
    count
  end

  # A pool of one worker, without the processes that start and check workers.
  defp pool!(address) do
    limits = %{
      max_queue: 10,
      max_sessions: 10,
      session_ttl: nil,
      pipeline_budget: 500,
      size: 1,
      startup_timeout: patience(),
      remote: true
    }

    pool = Native.pool_new(limits, false)
    options = [max_message_size: 1_000_000, timeout: patience()]
    {:ok, ref} = Channel.start_connect(address, options)
    assert_receive {^ref, {:ok, channel}}

    worker = %{
      id: "#{inspect(pool)}/1",
      max_concurrency: 1,
      kill_grace: patience(),
      observer: nil,
      batches: [],
      owned: false
    }

    Native.pool_add(pool, channel, worker)
    pool
  end
end
