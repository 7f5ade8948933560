defmodule Snakepit.SharedServerTest do
  # Several pools use one server, as those of several nodes do.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, only: [eventually: 1]
  import Snakepit.Test.Servers

  alias Snakepit.Error
  alias Snakepit.GRPC.Client
  alias Snakepit.Test.Endpoints

  for server <- ~w(native grpcio) do
    test "each pool has its own sessions on a #{server} server, whatever their ids are" do
      %{address: address} = start_server!(server: unquote(server))
      [first, second] = for _ <- 1..2, do: Endpoints.start_remote_pool!(endpoints: [address])
      for n <- 1..5, do: assert(tally(first, "other #{n}") == 1)
      counts = for _ <- 1..3, pool <- [first, second], do: tally(pool, "s")
      assert counts == [1, 1, 2, 2, 3, 3]
      assert :ok = Snakepit.end_session("s", pool: second)
      assert tally(second, "s") == 1
      assert tally(first, "s") == 4
    end

    @tag :tmp_dir
    test "a #{server} server that is full says so", %{tmp_dir: dir} do
      options = [server: unquote(server), max_concurrency: 1, args: ["--max-queue", "0"]]
      [address] = Endpoints.start!(options)
      {:ok, channel} = Client.connect(address)
      args = %{seconds: 600, started: Path.join(dir, "started")}
      call = Task.async(fn -> Client.execute(channel, "sleep", args, timeout: 600_000) end)
      eventually(fn -> File.exists?(args.started) end)
      assert {:error, %Error{reason: :pool_saturated} = error} = Client.execute(channel, "ping")
      assert error.message =~ "--max-queue"
      # A status of gRPC may also be that of another server.
      assert Error.may_have_run?(error) == (unquote(server) == "grpcio")
      Task.shutdown(call, :brutal_kill)
    end
  end

  defp tally(pool, session) do
    assert {:ok, %{"count" => count}} =
             Snakepit.execute_in_session(session, "tally", %{}, pool: pool)

    count
  end
end
