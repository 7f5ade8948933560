defmodule Snakepit.Faults.Endpoints do
  @moduledoc false
  # Servers of a remote pool end, and the links to their hosts break. Each host is a network namespace.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Hosts, Load, Server}

  @callers 32
  # What calls may end with whose endpoint was lost.
  @lost [:worker_crashed, :session_lost]
  # The keep-alive of the pool whose link is cut, and how long calls may take to end then, in ms. In the short form, which
  # runs on busy machines, servers have more time to answer.
  @keepalive %{
    short: %{options: [interval: 2_000, timeout: 5_000], within: 60_000},
    long: %{options: [interval: 2_000, timeout: 2_000], within: 6_000}
  }

  def trials do
    [
      %{
        name: "endpoint-kill",
        about: "kill -9 of a remote pool's servers in turn under 32 callers",
        short: true,
        run: &kill/1
      },
      %{
        name: "endpoint-term",
        about: "SIGTERM to a remote pool's servers in turn under 32 callers: no call fails",
        short: true,
        run: &term/1
      },
      %{
        name: "endpoint-link",
        about: "the link to a server's host is cut during a call and a stream, keep-alive 2 s",
        short: true,
        run: &link/1
      },
      %{
        name: "endpoint-flapping",
        about:
          "the link to a server's host is cut again and again, for up to 1.5 s each, under load",
        short: true,
        run: &flapping/1
      }
    ]
  end

  defp kill(what) do
    hosts = Hosts.start!(2)

    for {kind, kills} <- times(what, [native: 3, grpcio: 1], native: 50, grpcio: 50) do
      {servers, {pool, _} = started} = start!(hosts, kind)
      kinds = [:unary, :quick, :stream, :session]
      load = Load.start(pool, kinds: kinds, callers: @callers, what: what)

      for number <- 1..kills do
        Load.goes_on(load, 200)
        server = Enum.at(servers, rem(number, 2))
        137 = Server.kill!(server, "KILL")
        Load.goes_on(load, 200)
        Server.start_again!(server)
        ready!(pool)
      end

      tally = Load.stop(load, kind, @lost)
      crashed = Map.get(tally, :worker_crashed, 0)
      figure("#{kind}: lost calls of #{kills} kills", crashed)
      # At a time a caller has one call, which can be lost once.
      must(crashed <= kills * @callers, "#{kind}: #{kills} kills ended #{crashed} calls")
      Server.finish(servers, started)
    end
  end

  defp term(what) do
    hosts = Hosts.start!(3)

    for kind <- times(what, [:native], [:native, :grpcio]) do
      {servers, {pool, _} = started} = start!(hosts, kind)
      # Sessions are in one server's memory, and are lost with it.
      kinds = [:unary, :quick, :quick, :quick, :stream]
      load = Load.start(pool, kinds: kinds, callers: @callers, what: what)
      ends(servers, pool, load, times(what, 3, 20), times(what, 2_000, 40_000))
      Load.stop(load, kind, [])
      Server.finish(servers, started)
    end
  end

  # So many times, and until so many calls have ended.
  defp ends([server | others], pool, load, ends, calls) do
    Load.goes_on(load, 200)
    status = Server.kill!(server, "TERM")
    must(status == 0, "a server ended with #{status} after SIGTERM")
    Load.goes_on(load, 200)
    Server.start_again!(server)
    ready!(pool)

    if ends > 1 or Load.calls(load) < calls,
      do: ends(others ++ [server], pool, load, ends - 1, calls)
  end

  defp link(what) do
    hosts = Hosts.start!(2)

    for kind <- times(what, [:native], [:native, :grpcio]) do
      keepalive = @keepalive[what.form]
      options = [keepalive: keepalive.options]
      {servers, {pool, _} = started} = start!(hosts, kind, options)

      for round <- 1..times(what, 1, 5) do
        host = Enum.at(hosts, rem(round, 2))
        cut(host, pool, kind, keepalive.within)
        Hosts.restore(host)
        ready!(pool)
      end

      Server.finish(servers, started)
    end
  end

  # Each endpoint has a call and a stream. Those of the host that is cut fail, and the others do not.
  defp cut(host, pool, kind, within) do
    until = path("until")
    calls = for _ <- 1..2, do: start_held(&Snakepit.execute("hold", &1, &2), pool, until)

    streams =
      for _ <- 1..2 do
        stream = &Snakepit.execute_stream("hold_stream", &1, fn _chunk -> :ok end, &2)
        start_held(stream, pool, until)
      end

    cut_at = now()
    Hosts.cut(host)

    others =
      for {what, tasks} <- [call: calls, stream: streams] do
        {failed, other} = first_to_end(tasks, "#{kind}: a #{what} ends whose link is cut")
        {ended_at, outcome} = Task.await(failed)
        took = ended_at - cut_at
        figure("#{kind}, #{what}: #{outcome} after", "#{took} ms")
        must(outcome == :worker_crashed, "#{kind}: a #{what} whose link was cut: #{outcome}")
        must(took < within, "#{kind}: a #{what} whose link was cut took #{took} ms to fail")
        must(Process.alive?(other.pid), "#{kind}: the #{what} on another host ended, too")
        other
      end

    # Meanwhile the other host takes every call.
    for _ <- 1..20, do: {:ok, _} = Snakepit.execute("add", %{a: 1}, pool: pool, timeout: 60_000)
    File.touch!(until)

    ends = for {_at, outcome} <- await_all(others, "calls on the other host"), do: outcome
    must(ends == [:ok, :ok], "#{kind}: calls on the other host ended with #{inspect(ends)}")
  end

  defp start_held(call, pool, until) do
    started = path("started")
    options = [pool: pool, timeout: 120_000, queue_timeout: 120_000]

    task =
      Task.async(fn ->
        result = call.(%{started: started, until: until}, options)
        {now(), outcome(result)}
      end)

    # One after the other, so that each endpoint gets one of two.
    wait("the command runs", fn -> File.exists?(started) end)
    task
  end

  defp flapping(what) do
    hosts = Hosts.start!(2)

    for kind <- times(what, [:native], [:native, :grpcio]) do
      options = [keepalive: [interval: 300, timeout: 300]]
      {servers, {pool, _} = started} = start!(hosts, kind, options)
      kinds = [:unary, :quick, :stream, :session]
      load = Load.start(pool, kinds: kinds, callers: @callers, what: what)
      rounds = times(what, 5, 100)

      for round <- 1..rounds do
        host = Enum.at(hosts, rem(round, 2))
        Hosts.cut(host)
        Process.sleep(Enum.random([0, 10, 100, times(what, 300, 1_500)]))
        Hosts.restore(host)
        Load.goes_on(load, Enum.random([1, 100]))
      end

      ready!(pool)
      Load.goes_on(load, 100)
      figure("#{kind}: cuts", rounds)
      Load.stop(load, kind, @lost)
      {:ok, %{restarts: reconnects}} = Snakepit.stats(pool)
      figure("#{kind}: reconnections", reconnects)
      Server.finish(servers, started)
    end
  end

  defp start!(hosts, kind, options \\ []) do
    servers = for host <- hosts, do: Server.start!(host: host, server: kind)
    {servers, Server.start_pool!(servers, options)}
  end

  # The one that has ended, and the other.
  defp first_to_end([one, other] = tasks, text) do
    wait(text, fn -> not Enum.all?(tasks, &Process.alive?(&1.pid)) end)
    if Process.alive?(one.pid), do: {other, one}, else: {one, other}
  end

  defp path(name),
    do: Path.join(System.tmp_dir!(), "#{name}#{System.unique_integer([:positive])}")
end
