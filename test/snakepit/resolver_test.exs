defmodule Snakepit.ResolverTest do
  # Remote pools that find their endpoints: by the names of a name server, which is that of the whole BEAM, and by
  # modules.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools, except: [start_pool!: 0, start_pool!: 1]

  alias Snakepit.Error
  alias Snakepit.Pool.Registry
  alias Snakepit.Test.{Endpoints, NameServer}

  defmodule Listed do
    @behaviour Snakepit.Endpoints

    @impl true
    def endpoints(nil), do: {:error, "nobody knows"}
    def endpoints(:bytes), do: {:error, <<255>>}
    def endpoints(:raises_bytes), do: raise(<<255>>)
    def endpoints(:raises), do: raise("no list")
    def endpoints(:wrong), do: {:ok, ["models:50051"]}
    def endpoints(list), do: {:ok, Agent.get(list, & &1)}
  end

  # The addresses of the endpoints that are ready, or nil while others are listed.
  defp ready(pool) do
    {:ok, workers} = Snakepit.list_workers(pool)

    if Enum.all?(workers, &(&1.state == :ready)),
      do: workers |> Enum.map(& &1.endpoint) |> Enum.sort()
  end

  defp becomes_ready(pool, addresses),
    do: eventually(fn -> ready(pool) == Enum.sort(addresses) end)

  test "a module's endpoints are used; what is connected stays until its connection is lost" do
    [a, b, c] = for _ <- 1..3, do: Endpoints.address()
    [server_a, server_b, _] = for address <- [a, b, c], do: Endpoints.start_at!(address)
    {:ok, list} = Agent.start_link(fn -> [a, b] end)
    pool = Endpoints.start_remote_pool!(endpoints: {Listed, list})
    assert :ok = await_ready(pool)
    assert ready(pool) == Enum.sort([a, b])
    assert {:ok, %{size: 2}} = Snakepit.stats(pool)
    Agent.update(list, fn _ -> [c] end)
    # The loss of one has the list asked again.
    Endpoints.end!(server_b, :KILL)
    becomes_ready(pool, [a, c])
    Endpoints.end!(server_a, :KILL)
    becomes_ready(pool, [c])
    assert {:ok, %{size: 1, ready: 1}} = Snakepit.stats(pool)
    assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
  end

  test "a module that knows none is asked again, and its error is that of the calls" do
    for {argument, part} <- [
          {nil, "nobody knows"},
          {:raises, "ResolverTest.Listed.endpoints/1 raised RuntimeError: no list"},
          {:wrong, "addresses"},
          {:bytes, "<<255>>"},
          {:raises_bytes, "raised RuntimeError: <<255>>"}
        ] do
      pool = Endpoints.start_remote_pool!(endpoints: {Listed, argument})
      assert {:error, %Error{reason: :grpc_unavailable, message: message}} = await_ready(pool)
      assert message =~ part

      assert {:error, %Error{reason: :grpc_unavailable, message: ^message}} =
               Snakepit.execute("ping", %{}, pool: pool)
    end

    {:ok, list} = Agent.start_link(fn -> [] end)
    pool = Endpoints.start_remote_pool!(endpoints: {Listed, list})
    assert {:error, %Error{message: message}} = await_ready(pool)
    assert message =~ "empty"
    addresses = Endpoints.start!([])
    Agent.update(list, fn _ -> addresses end)
    eventually(fn -> match?([_], ready(pool)) end)
  end

  test "calls wait for an endpoint that was found after all" do
    {:ok, list} = Agent.start_link(fn -> [] end)
    pool = Endpoints.start_remote_pool!(endpoints: {Listed, list})
    assert {:error, %Error{message: message}} = await_ready(pool)
    assert message =~ "empty"
    # It takes connections, and answers nothing.
    {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1}, active: false)
    {:ok, port} = :inet.port(listener)
    Agent.update(list, fn _ -> ["tcp:127.0.0.1:#{port}"] end)
    eventually(fn -> match?({:ok, [_]}, Snakepit.list_workers(pool)) end)
    call = Task.async(fn -> Snakepit.execute("ping", %{}, pool: pool) end)

    eventually(fn ->
      match?({:ok, %{queued: 1}}, Snakepit.stats(pool)) or not Process.alive?(call.pid)
    end)

    :gen_tcp.close(listener)
    assert {:error, %Error{reason: :grpc_unavailable, message: message}} = await(call)
    refute message =~ "empty"
  end

  test "names are resolved to all of their addresses, and again when a connection is lost" do
    "tcp:" <> rest = one = Endpoints.address()
    [host, port] = String.split(rest, ":")
    # Another address of this machine.
    other_host = String.replace_suffix(host, ".1", ".2")
    other = "tcp:#{other_host}:#{port}"
    server = Endpoints.start_at!(one)
    Endpoints.start_at!(other)

    ip = fn host ->
      host |> String.split(".") |> Enum.map(&String.to_integer/1) |> List.to_tuple()
    end

    names = NameServer.start!(%{"models.test" => {:a, [ip.(host)]}})
    endpoints = {:dns, "models.test", String.to_integer(port)}
    pool = Endpoints.start_remote_pool!(endpoints: endpoints)
    assert :ok = await_ready(pool)
    assert ready(pool) == [one]
    # Some balancers weigh addresses so.
    twice = [ip.(host), ip.(other_host), ip.(other_host)]
    NameServer.set(names, "models.test", {:a, twice})
    Endpoints.end!(server, :KILL)

    eventually(fn ->
      {:ok, workers} = Snakepit.list_workers(pool)
      Enum.any?(workers, &match?(%{state: :ready, endpoint: ^other}, &1))
    end)

    NameServer.set(names, "models.test", {:a, []})
    Endpoints.resume(server)
    becomes_ready(pool, [one, other])
    {:ok, %{manager: manager}} = Registry.fetch(pool)
    supervisor = :sys.get_state(manager).supervisor
    assert %{active: 2} = DynamicSupervisor.count_children(supervisor)
  end

  test "SRV records name hosts and ports, of which those of the first priority count" do
    "tcp:" <> rest = one = hd(Endpoints.start!([]))
    [host, port] = String.split(rest, ":")
    first = {10, 1, String.to_integer(port), String.to_charlist(host)}
    second = {20, 1, 1, ~c"backup.test"}
    name = "_grpc._tcp.models.test"
    names = NameServer.start!(%{name => {:srv, []}})
    pool = Endpoints.start_remote_pool!(endpoints: {:srv, name})
    assert {:error, %Error{message: message}} = await_ready(pool)
    assert message =~ name
    NameServer.set(names, name, {:srv, [second, first]})
    becomes_ready(pool, [one])
  end
end
