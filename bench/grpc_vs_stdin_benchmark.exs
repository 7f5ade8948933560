# mix run bench/grpc_vs_stdin_benchmark.exs [--quick]
#
# Compares both kinds of worker, in turns within one run: the latency of one caller, the
# throughput of 32, and the CPU seconds that 10,000 calls cost at both ends. Compare only figures
# from one run.
defmodule Snakepit.KindsBench do
  @kinds [gRPC: Snakepit.Adapters.GRPCPython, stdin: Snakepit.Adapters.GenericPythonV2]
  @payloads [{"100 B", 100}, {"10 KB", 10_000}, {"1 MB", 1_000_000}]
  @callers 32

  def run(args) do
    {options, _, _} = OptionParser.parse(args, strict: [quick: :boolean])
    scale = if options[:quick], do: 10, else: 1
    Logger.configure(level: :warning)

    pools =
      for {kind, adapter} <- @kinds do
        {:ok, _} = Snakepit.Pool.start_link(name: kind, adapter: adapter, size: 2)
        :ok = Snakepit.Pool.await_ready(kind)
        kind
      end

    IO.puts("#{pad("")}#{Enum.map_join(pools, &right/1)}")

    for {name, bytes} <- @payloads do
      args = %{text: String.duplicate("x", bytes)}
      calls = max(div(10_000, div(bytes, 10_000) + 1), 200) |> div(scale) |> max(20)
      # Take turns, so that other load on the machine affects both.
      rounds = for _ <- 1..3, do: Map.new(pools, &{&1, measure(&1, args, calls)})

      for {key, unit} <- [p50: "µs", p99: "µs", rate: "calls/s", host: "s", worker: "s"] do
        values = for pool <- pools, do: rounds |> Enum.map(& &1[pool][key]) |> median() |> show()
        IO.puts("#{pad("#{name}: #{label(key)}, #{unit}")}#{Enum.map_join(values, &right/1)}")
      end
    end
  end

  defp label(:p50), do: "one caller, p50"
  defp label(:p99), do: "one caller, p99"
  defp label(:rate), do: "#{@callers} callers"
  defp label(:host), do: "CPU of 10,000 calls, Elixir"
  defp label(:worker), do: "CPU of 10,000 calls, Python"

  defp measure(pool, args, calls) do
    call = fn -> {:ok, _} = Snakepit.execute("echo", args, pool: pool, timeout: :infinity) end
    for _ <- 1..div(calls, 10), do: call.()
    {host, workers} = {cpu("self"), cpus(pool)}
    times = for(_ <- 1..calls, do: call |> :timer.tc() |> elem(0)) |> Enum.sort()
    per_caller = max(div(calls, @callers), 1)

    {time, _} =
      :timer.tc(fn ->
        1..@callers
        |> Enum.map(fn _ ->
          Task.async(fn -> Enum.each(1..per_caller, fn _ -> call.() end) end)
        end)
        |> Task.await_many(:infinity)
      end)

    all = calls + per_caller * @callers

    %{
      p50: Enum.at(times, div(calls, 2)),
      p99: Enum.at(times, div(calls * 99, 100)),
      rate: per_caller * @callers / (time / 1_000_000),
      host: (cpu("self") - host) * 10_000 / all,
      worker: (cpus(pool) - workers) * 10_000 / all
    }
  end

  defp cpus(pool) do
    {:ok, workers} = Snakepit.list_workers(pool)
    workers |> Enum.map(&cpu(&1.os_pid)) |> Enum.sum()
  end

  # User and system time, counted by the kernel in hundredths of a second.
  defp cpu(os_pid) do
    [_, fields] = "/proc/#{os_pid}/stat" |> File.read!() |> String.split(") ", parts: 2)
    fields = String.split(fields)
    [user, system] = for index <- [11, 12], do: fields |> Enum.at(index) |> String.to_integer()
    (user + system) / 100
  end

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))
  defp pad(text), do: String.pad_trailing(text, 46)
  defp right(text), do: text |> to_string() |> String.pad_leading(12)
  defp show(value), do: :erlang.float_to_binary(value * 1.0, decimals: 2)
end

Snakepit.KindsBench.run(System.argv())
