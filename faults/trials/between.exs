defmodule Snakepit.Faults.Between do
  @moduledoc false
  # What stands between a remote pool and its servers: a proxy that misbehaves, a balancer.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Load, Proxy, Server}
  alias Snakepit.Test.HAProxy

  # Through a proxy that passes nothing on a call ends by its deadline, and its endpoint may count as failed.
  @slow [:timeout, :queue_timeout, :worker_crashed, :session_lost, :grpc_unavailable]
  # A balancer also answers itself where its server has gone, by an HTTP status or a reset.
  @balanced [:worker_crashed, :grpc_unavailable, :answered_unavailable, :rpc_error]

  def trials do
    [
      %{
        name: "proxy",
        about:
          "a proxy before each server delays, half-closes, sends RST, a byte a second, or nothing",
        short: true,
        run: &proxy/1
      },
      %{
        name: "balancer",
        about:
          "HAProxy, HTTP/2 on both sides, before two servers that get SIGKILL and SIGTERM in turn",
        short: true,
        run: &balancer/1
      }
    ]
  end

  # Half of the calls have a proxy that misbehaves, the others one that does not.
  defp proxy(what) do
    for kind <- times(what, [:native], [:native, :grpcio]) do
      servers = for _ <- 1..2, do: Server.start!(server: kind)
      [bad, good] = for server <- servers, do: Proxy.start!(Server.address(server))
      addresses = for proxy <- [bad, good], do: Proxy.address(proxy)
      options = [keepalive: [interval: 500, timeout: 500], timeout: 5_000]
      {pool, supervisor} = Server.start_pool_unready!(addresses, options)
      ready!(pool)
      kinds = [:unary, :quick, :stream, :session]
      times = [timeout: 4_000, queue_timeout: 4_000]
      load = Load.start(pool, [kinds: kinds, callers: 16, what: what] ++ times)
      before = Proxy.accepted(bad)

      for _ <- 1..times(what, 1, 10),
          act <- [:delay, :to_server, :to_client, :all, :trickle, :stall] do
        Load.goes_on(load, 50)
        misbehave(act, bad, load, kind)
        Proxy.set(bad, :pass)
        ready!(pool)
      end

      Load.goes_on(load, 50)
      Load.stop(load, kind, @slow)
      figure("#{kind}: connections made again", Proxy.accepted(bad) - before)
      Server.finish(servers, {pool, supervisor})
    end
  end

  # The other endpoint takes calls all the time.
  defp misbehave(:delay, proxy, load, _kind) do
    Proxy.set(proxy, {:delay, 50})
    Load.goes_on(load, 200)
  end

  defp misbehave(mode, proxy, load, kind) when mode in [:trickle, :stall] do
    accepted = Proxy.accepted(proxy)
    Proxy.set(proxy, mode)

    # The keep-alive notices it, and the pool connects again, in vain.
    wait("#{kind}: a connection that passes nothing (#{mode}) is given up", fn ->
      Proxy.accepted(proxy) > accepted
    end)

    Load.goes_on(load, 50)
  end

  defp misbehave(direction, proxy, load, kind) do
    accepted = Proxy.accepted(proxy)
    wait("the proxy has a connection", fn -> Proxy.close(proxy, direction) > 0 end)

    wait("#{kind}: a closed connection (#{direction}) is made again", fn ->
      Proxy.accepted(proxy) > accepted
    end)

    Load.goes_on(load, 50)
  end

  defp balancer(what) do
    haproxy = HAProxy.executable() || skip("there is no `haproxy`")

    long = [native: {~w(KILL TERM), 20}, grpcio: {~w(KILL TERM), 20}]

    for {kind, {signals, ends}} <-
          times(what, [native: {~w(KILL TERM), 1}, grpcio: {~w(TERM), 1}], long) do
      servers = for _ <- 1..2, do: Server.start!(server: kind)
      address = Server.free_address()
      HAProxy.start!(haproxy, System.tmp_dir!(), address, Enum.map(servers, &Server.address/1))
      {pool, supervisor} = Server.start_pool_unready!([address], [])
      ready!(pool)
      # Each of its calls is given to a server.
      {each, _} = started = Server.start_pool_unready!([address], calls: false)
      ready!(each)

      # HAProxy passes grpcio's own cancellations on as RPCs without a status. A native server that ends in order has none.
      for signal <- signals do
        load = Load.start(pool, kinds: [:unary, :quick, :stream], callers: 16, what: what)

        for number <- 1..ends,
            do: ends(Enum.at(servers, rem(number, 2)), signal, {pool, each}, kind, load)

        allowed =
          if {kind, signal} == {:native, "TERM"}, do: @balanced -- [:rpc_error], else: @balanced

        Load.stop(load, "#{kind}, SIG#{signal}", allowed)
      end

      stop_pools([started])
      Server.finish(servers, {pool, supervisor})
    end
  end

  defp ends(server, signal, {pool, each}, kind, load) do
    Load.goes_on(load, 100)
    Server.kill!(server, signal)
    # By the other one.
    succeeds_again(pool, kind)
    Load.goes_on(load, 100)
    Server.start_again!(server)
    # HAProxy must know it before the other one ends.
    wait("#{kind}: the balancer uses both servers", fn ->
      pids =
        for _ <- 1..8,
            {:ok, %{"pid" => pid}} <- [Snakepit.execute("pid", %{}, pool: each)],
            do: pid

      length(Enum.uniq(pids)) == 2
    end)
  end

  # Once a call has, they do.
  defp succeeds_again(pool, kind) do
    wait("#{kind}: calls succeed with one server of two", fn ->
      for(_ <- 1..10, do: outcome(Snakepit.execute("add", %{a: 1}, pool: pool)))
      |> Enum.all?(&(&1 == :ok))
    end)
  end
end
