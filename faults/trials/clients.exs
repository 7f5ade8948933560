defmodule Snakepit.Faults.Clients do
  @moduledoc false
  # Hostile clients connect to the socket of a worker that serves a pool.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.OS
  alias Snakepit.GRPC.Client

  @short ~w(garbage continuation settings resets connections)
  @modes ~w(garbage http1 garbage_after_preface continuation headers settings settings_unread pings
            pings_unread resets priorities empty_data window_updates slow streams_unread connections
            connections_http2)
  # How much a worker may grow under an attack.
  @growth_mb 200

  def trials do
    for transport <- [:unix, :tcp], server <- [:native, :grpcio] do
      %{
        name: "clients-#{server}-#{transport}",
        about:
          "hostile clients connect to a worker's socket (#{server}, #{transport}) during calls",
        short: {server, transport} in [native: :unix, native: :tcp],
        run: &hostile(server, transport, &1)
      }
    end
  end

  defp hostile(server, transport, what) do
    {pool, supervisor} = start_pool!(size: 1, server: server, transport: transport)
    [os_pid] = OS.workers(pool)
    address = OS.address(os_pid)
    quiet = for _ <- 1..200, do: call!(pool, "before any attack")
    figure("p50 without attacks", "#{percentile(quiet, 50)} ms")
    descriptors = OS.descriptors(os_pid)
    seconds = times(what, 0.5, 5)

    modes = times(what, @short, @modes)
    attacks = for mode <- modes, do: attack(pool, os_pid, address, mode, seconds)

    all = Enum.flat_map(attacks, & &1)

    figure(
      "during #{length(attacks)} attacks: #{length(all)} calls, p50, p99, max",
      Enum.map_join([50, 99, 100], ", ", &percentile(all, &1)) <> " ms"
    )

    must(OS.workers(pool) == [os_pid], "the worker did not withstand the attacks")

    wait(
      "the attackers' descriptors are closed",
      fn -> OS.descriptors(os_pid) <= descriptors + 2 end,
      120_000
    )

    # Over TCP a connection without the secret is refused later: at its first call.
    if transport == :unix, do: {:ok, _} = Client.connect(address, timeout: 60_000)
    stop_pools([{pool, supervisor}])
  end

  defp attack(pool, os_pid, address, mode, seconds) do
    before = OS.rss(os_pid)
    watch = OS.watch([os_pid])
    args = ["faults/python/hostile_client.py", address, mode, to_string(seconds)]

    attack =
      Task.async(fn ->
        System.cmd(Path.expand(".venv/bin/python"), args, stderr_to_stdout: true)
      end)

    {{output, status}, times} = call_during(attack, pool, mode, [])
    must(status == 0, "the client of #{mode} ended with #{status}: #{output}")
    IO.puts("#{mode}: #{String.trim(output)}; max #{percentile(times, 100)} ms")
    growth = OS.peaks(watch)[os_pid] - before
    must(growth < @growth_mb, "#{mode} grew the worker by #{round(growth)} MB")
    times
  end

  defp call_during(attack, pool, mode, times) do
    time = call!(pool, mode)

    # Pause, so that the attack gets CPU time, too.
    case Task.yield(attack, 1) do
      {:ok, ended} -> {ended, [time | times]}
      nil -> call_during(attack, pool, mode, [time | times])
    end
  end

  defp call!(pool, mode) do
    {time, result} =
      :timer.tc(fn ->
        Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, timeout: 60_000, queue_timeout: 60_000)
      end)

    must(
      match?({:ok, %{"result" => 3}}, result),
      "#{mode}: a call beside it ended with #{inspect(outcome(result))}"
    )

    time
  end
end
