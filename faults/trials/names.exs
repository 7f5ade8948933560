defmodule Snakepit.Faults.Names do
  @moduledoc false
  # A name server adds and removes the servers of a remote pool, and fails, while they end under load.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Load, Server}
  alias Snakepit.Test.NameServer

  @name "models.test"

  def trials do
    [
      %{
        name: "names",
        about:
          "a name server adds and removes servers, or answers nothing, while servers are killed",
        short: true,
        run: &names/1
      }
    ]
  end

  defp names(what) do
    "tcp:" <> at = Server.free_address()
    [host, port] = String.split(at, ":")
    ips = for last <- 1..3, do: String.replace_suffix(host, ".1", ".#{last}")
    names = start_name_server!(%{@name => records(ips)})

    for kind <- times(what, [:native], [:native, :grpcio]),
        do: ends(what, kind, names, ips, port)
  end

  defp ends(what, kind, names, ips, port) do
    servers = for ip <- ips, do: {ip, Server.start!(address: "tcp:#{ip}:#{port}", server: kind)}

    {pool, _} = started = Server.start_pool_unready!({:dns, @name, String.to_integer(port)}, [])
    ready!(pool)
    kinds = [:unary, :quick, :stream, :session]
    load = Load.start(pool, kinds: kinds, callers: 16, what: what)

    for _ <- 1..times(what, 1, 30), {ip, server} <- servers do
      Load.goes_on(load, 50)
      NameServer.set(names, @name, Enum.random([records(ips -- [ip]), records([]), {:srv, []}]))
      137 = Server.kill!(server, "KILL")
      Load.goes_on(load, 50)

      # It is known again, whether that was because of its name or because it was still being tried.
      NameServer.set(names, @name, records(ips))
      Server.start_again!(server)
      lose_another(servers, ip, pool, port)
      wait("#{ip} is used", fn -> ready?(pool, ip, port) end)
    end

    Load.stop(load, kind, [:worker_crashed, :session_lost])
    stop_pools([started])
    for {_ip, server} <- servers, do: Server.stop!(server)
  end

  # The name is resolved again each time a connection is lost.
  defp lose_another(servers, ip, pool, port) do
    unless ready?(pool, ip, port) do
      {_ip, server} = Enum.random(Enum.reject(servers, &(elem(&1, 0) == ip)))
      Server.kill!(server, "KILL")
      Server.start_again!(server)
    end
  end

  defp ready?(pool, ip, port) do
    {:ok, workers} = Snakepit.list_workers(pool)
    Enum.any?(workers, &(&1.endpoint == "tcp:#{ip}:#{port}" and &1.state == :ready))
  end

  defp records(ips) do
    {:a, for(ip <- ips, do: ip |> String.to_charlist() |> :inet.parse_address() |> elem(1))}
  end

  # This BEAM asks no other one.
  defp start_name_server!(records) do
    {:ok, server} = NameServer.start_link(records)
    :inet_db.res_option(:resolv_conf, ~c"")
    :inet_db.res_option(:nameservers, [{{127, 0, 0, 1}, GenServer.call(server, :port)}])
    :inet_db.set_lookup([:file, :dns])
    server
  end
end
