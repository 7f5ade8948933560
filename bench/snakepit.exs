# mix snakepit.bench [--quick]
#
# Measures what a call and a stream cost on this machine, as a table and as JSON. Compare only
# figures from one run: a machine's speed drifts.
defmodule Snakepit.Bench do
  alias Snakepit.GRPC.Client

  @kib String.duplicate("x", 1024)
  @calls 32

  def run(args) do
    {options, _, _} = OptionParser.parse(args, strict: [quick: :boolean])
    scale = if options[:quick], do: 10, else: 1
    Logger.configure(level: :warning)

    rows =
      List.flatten([
        port_echo(div(5_000, scale)),
        ready(),
        unary(div(5_000, scale)),
        throughput(div(200_000, scale), []),
        throughput(div(20_000, scale), server: :grpcio),
        streams(div(500_000, scale), []),
        streams(div(50_000, scale), server: :grpcio),
        large(10_000_000),
        large(100_000_000),
        bare(div(5_000, scale), div(20_000, scale))
      ])

    width = rows |> Enum.map(fn {name, _, _} -> String.length(name) end) |> Enum.max()

    for {name, value, unit} <- rows do
      IO.puts(
        "#{String.pad_trailing(name, width)}  #{String.pad_leading(show(value), 10)} #{unit}"
      )
    end

    pairs =
      Enum.map_join(rows, ", ", fn {name, value, unit} ->
        ~s|"#{name} (#{unit})": #{show(value)}|
      end)

    IO.puts("\n{#{pairs}}")
  end

  # A raw echo through a Port to Python: the lower bound for any call.
  defp port_echo(calls) do
    port =
      Port.open({:spawn_executable, python()}, [
        :binary,
        packet: 4,
        args: ["bench/cost/cost_peers.py", "raw"]
      ])

    echo = fn ->
      Port.command(port, @kib)

      receive do
        {^port, {:data, _}} -> :ok
      end
    end

    times = times(calls, echo)
    Port.close(port)
    [{"floor: raw 1 KiB echo through a Port, p50", percentile(times, 50), "us"}]
  end

  defp ready do
    for size <- [1, 8] do
      {time, stop} = :timer.tc(fn -> start(size: size) end)
      {:ok, [worker | _]} = Snakepit.list_workers()
      stop.()

      [
        {"time to a ready pool of #{size}", time / 1000, "ms"},
        {"resident memory of an idle worker, pool of #{size}", worker.memory_bytes / 1_000_000,
         "MB"}
      ]
    end
  end

  defp unary(calls) do
    with_pool([size: 1], fn ->
      times = times(calls, fn -> {:ok, _} = Snakepit.execute("echo", %{text: @kib}) end)

      [
        {"unary, 1 KiB, one caller, p50", percentile(times, 50), "us"},
        {"unary, 1 KiB, one caller, p99", percentile(times, 99), "us"}
      ]
    end)
  end

  defp throughput(calls, options) do
    for size <- [1, 2] do
      with_pool([size: size] ++ options, fn ->
        :erlang.statistics(:runtime)
        cpu = python_cpu()
        rate = concurrent(calls, fn -> {:ok, _} = Snakepit.execute("echo", %{text: @kib}) end)
        {_, beam} = :erlang.statistics(:runtime)
        spent = (beam / 1000 + python_cpu() - cpu) * 10_000 / calls
        name = "1 KiB, #{@calls} callers, pool of #{size}#{server(options)}"

        [
          {"unary, #{name}", rate, "calls/s"},
          {"CPU, both ends, #{name}", spent, "s/10,000 calls"}
        ]
      end)
    end
  end

  defp streams(chunks, options) do
    first =
      with_pool([size: 1] ++ options, fn ->
        times =
          times(500, fn ->
            :ok = Snakepit.execute_stream("ping_stream", %{count: 2}, fn _ -> :halt end)
          end)

        {"first chunk, p50#{server(options)}", percentile(times, 50), "us"}
      end)

    one =
      with_pool([size: 1] ++ options, fn ->
        {"one stream#{server(options)}", stream_rate(1, chunks), "chunks/s"}
      end)

    eight =
      with_pool([size: 2, max_concurrency: 4] ++ options, fn ->
        rate = stream_rate(8, div(chunks, 4))
        {"8 streams together, pool of 2#{server(options)}", rate, "chunks/s"}
      end)

    [first, one, eight]
  end

  defp server(server: name), do: ", #{name}"
  defp server([]), do: ""

  defp large(size) do
    blob = :binary.copy(<<255>>, size)

    with_pool([size: 1, max_message_size: 2 * size], fn ->
      times =
        times(10, fn -> {:ok, %{"blob" => ^blob}} = Snakepit.execute("echo", %{blob: blob}) end)

      name = "#{div(size, 1_000_000)} MB echo"
      [{name, size / percentile(times, 50), "MB/s"}]
    end)
  end

  # The NIF's client and a bare tonic client, in turns against the same server.
  defp bare(calls, concurrent) do
    {socket, port} = server()
    {:ok, channel} = Client.connect("unix:" <> socket)
    echo = fn -> {:ok, _} = Client.execute(channel, "echo", %{text: @kib}) end
    args = ~w(run --quiet --release --locked --package snakepit_proto --example bare_client --)

    bare = fn ->
      System.cmd("cargo", args ++ [socket, "#{calls}", "#{concurrent}", "#{@calls}"])
    end

    {_, 0} = bare.()

    times = times(calls, echo)
    rate = concurrent(concurrent, echo)
    {output, 0} = bare.()
    [p50, bare_rate] = output |> String.split() |> Enum.map(&String.to_float/1)
    Port.close(port)

    [
      {"bare tonic client, same server, p50", p50, "us"},
      {"NIF, same server, p50", percentile(times, 50), "us"},
      {"bare tonic client, same server, #{@calls} callers", bare_rate, "calls/s"},
      {"NIF, same server, #{@calls} callers", rate, "calls/s"}
    ]
  end

  defp server do
    socket = Path.join(System.tmp_dir!(), "snakepit-bench-#{System.pid()}.sock")

    port =
      Port.open({:spawn_executable, python()}, [
        :binary,
        line: 1000,
        args: ~w(-u -m snakepit_bridge --listen unix:#{socket}),
        env: [{~c"PYTHONPATH", ~c"python"}, {~c"SNAKEPIT_READY_TOKEN", ~c"ready"}]
      ])

    await_line(port, "ready unix:" <> socket)
    {socket, port}
  end

  defp await_line(port, line) do
    receive do
      {^port, {:data, {:eol, ^line}}} -> :ok
      {^port, {:data, _other}} -> await_line(port, line)
    after
      10_000 -> raise "the server did not start"
    end
  end

  # The CPU time of all workers, in seconds.
  defp python_cpu do
    {:ok, workers} = Snakepit.list_workers()

    ticks =
      for %{os_pid: pid} <- workers do
        [_, fields] = "/proc/#{pid}/stat" |> File.read!() |> String.split(") ")

        fields
        |> String.split()
        |> Enum.slice(11, 2)
        |> Enum.map(&String.to_integer/1)
        |> Enum.sum()
      end

    Enum.sum(ticks) / 100
  end

  defp with_pool(options, fun) do
    stop = start(options)
    result = fun.()
    stop.()
    result
  end

  defp start(options) do
    {:ok, pool} = Snakepit.Pool.start_link(options)
    :ok = Snakepit.Pool.await_ready()
    fn -> Supervisor.stop(pool) end
  end

  defp times(count, fun) do
    for _ <- 1..max(div(count, 10), 5), do: fun.()
    for(_ <- 1..count, do: fun |> :timer.tc() |> elem(0)) |> Enum.sort()
  end

  defp percentile(sorted, percent) do
    Enum.at(sorted, min(div(length(sorted) * percent, 100), length(sorted) - 1)) * 1.0
  end

  defp concurrent(count, fun) do
    for _ <- 1..200, do: fun.()
    each = div(count, @calls)

    {time, _} =
      :timer.tc(fn ->
        1..@calls
        |> Enum.map(fn _ -> Task.async(fn -> Enum.each(1..each, fn _ -> fun.() end) end) end)
        |> Task.await_many(:infinity)
      end)

    each * @calls / (time / 1_000_000)
  end

  defp stream_rate(streams, chunks) do
    stream = fn ->
      :ok =
        Snakepit.execute_stream("ping_stream", %{count: chunks}, fn _ -> nil end,
          timeout: :infinity
        )
    end

    {time, _} =
      :timer.tc(fn ->
        1..streams |> Enum.map(fn _ -> Task.async(stream) end) |> Task.await_many(:infinity)
      end)

    streams * chunks / (time / 1_000_000)
  end

  defp python do
    venv = Path.expand(".venv/bin/python")
    if File.exists?(venv), do: venv, else: System.find_executable("python3")
  end

  defp show(value), do: :erlang.float_to_binary(value * 1.0, decimals: 1)
end

Snakepit.Bench.run(System.argv())
