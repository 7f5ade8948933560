# mix run bench/values.exs
#
# Measures the cost of values: nested maps of three sizes through this codec,
# :erlang.term_to_binary, and Python's json and orjson (if installed), all in one run; then a
# tensor of 100 MB to Python and back; then tables from and to Python, as maps of lists and as
# Arrow (which needs pyarrow), compared with copying as many bytes in memory. Compare only figures
# from one run: a machine's speed drifts.
defmodule Snakepit.Bench.Values do
  alias Snakepit.Codec

  @python """
  import json, sys, time
  try:
      import orjson
  except ImportError:
      orjson = None
  codecs = {"json": (lambda v: json.dumps(v).encode(), json.loads)}
  if orjson:
      codecs["orjson"] = (orjson.dumps, orjson.loads)
  text = open(sys.argv[1], "rb").read()
  rounds = int(sys.argv[2])
  def best(work, given):
      times = []
      for _ in range(rounds):
          started = time.perf_counter()
          work(given)
          times.append(time.perf_counter() - started)
      return sorted(times)[len(times) // 2] * 1e6
  for name, (dumps, loads) in codecs.items():
      value = loads(text)
      print(name, best(dumps, value), best(loads, text))
  """

  def run do
    Logger.configure(level: :warning)
    IO.puts("median in us                          encode      decode")

    for {name, size} <- [{"1 KiB", 1024}, {"100 KiB", 102_400}, {"10 MB", 10_000_000}],
        do: size(name, size)

    tensor()
    tables()
  end

  defp size(name, size) do
    # Decode into fresh terms, as both routes do.
    {:ok, json} = Codec.encode_extended(nested(size))
    {:ok, value} = Codec.decode_extended(json)
    etf = :erlang.term_to_binary(value)
    rounds = max(5, div(20_000_000, size * 10))

    row(
      name,
      "snakepit",
      median(rounds, fn -> Codec.encode_extended(value) end),
      median(rounds, fn -> Codec.decode_extended(json) end)
    )

    row(
      name,
      "term_to_binary",
      median(rounds, fn -> :erlang.term_to_binary(value) end),
      median(rounds, fn -> :erlang.binary_to_term(etf) end)
    )

    path = Path.join(System.tmp_dir!(), "snakepit-bench-values.json")
    File.write!(path, json)

    {lines, 0} =
      System.cmd(Snakepit.Adapters.Python.executable(), ["-c", @python, path, to_string(rounds)])

    File.rm!(path)

    for line <- String.split(lines, "\n", trim: true) do
      [codec, encode, decode] = String.split(line)
      row(name, "Python's #{codec}", String.to_float(encode), String.to_float(decode))
    end
  end

  defp nested(size) do
    row = %{
      "id" => 1234,
      "name" => "Grüße aus Köln",
      "score" => 0.123456789,
      "tags" => ["a", "b", nil, true],
      "at" => %{"x" => 1, "y" => -2.5}
    }

    {:ok, json} = Codec.encode_extended(row)
    %{"rows" => List.duplicate(row, max(1, div(size, byte_size(json))))}
  end

  defp tensor do
    name = __MODULE__.Pool
    {:ok, pool} = Snakepit.Pool.start_link(name: name, size: 1, max_message_size: 200_000_000)
    :ok = Snakepit.Pool.await_ready(name)

    tensor =
      Snakepit.Tensor.new(
        :binary.copy(<<1.0::float-32-little>>, 25_000_000),
        :float32,
        {5000, 5000}
      )

    time =
      median(5, fn ->
        {:ok, %{"t" => %Snakepit.Tensor{}}} =
          Snakepit.execute("echo", %{t: tensor}, pool: name, timeout: 120_000)
      end)

    IO.puts("a tensor of 100 MB to Python and back: #{round(time / 1000)} ms")
    Supervisor.stop(pool)
  end

  defp tables do
    name = __MODULE__.Tables
    limit = 2_000_000_000
    args = [class: "table_commands:TableCommands", paths: ["bench"]]
    options = [name: name, size: 1, max_message_size: limit, adapter_args: args]
    {:ok, pool} = Snakepit.Pool.start_link(options)
    :ok = Snakepit.Pool.await_ready(name)

    for {form, megabytes} <- [lists: 10, arrow: 10, arrow: 100] do
      get = fn ->
        {:ok, %{"result" => table}} =
          Snakepit.execute("get_#{form}", %{megabytes: megabytes}, pool: name, timeout: 120_000)

        table
      end

      table = get.()

      put = fn ->
        {:ok, %{"result" => rows}} =
          Snakepit.execute("rows_of_#{form}", %{table: table}, pool: name, timeout: 120_000)

        ^rows = div(megabytes * 1_000_000, 16)
      end

      IO.puts(
        "a table of #{megabytes} MB as #{form}: #{millis(get)} ms from Python, #{millis(put)} ms to it"
      )
    end

    bytes = :binary.copy(<<1>>, 100_000_000)
    IO.puts("a copy of 100 MB in memory: #{millis(fn -> :binary.copy(bytes) end)} ms")
    Supervisor.stop(pool)
  end

  defp millis(work), do: Float.round(median(7, work) / 1000, 1)

  defp median(rounds, work) do
    times = for _ <- 1..rounds, do: work |> :timer.tc() |> elem(0)
    times |> Enum.sort() |> Enum.at(div(rounds, 2)) |> Kernel./(1)
  end

  defp row(name, codec, encode, decode) do
    IO.puts(
      "#{String.pad_trailing(name, 9)} #{String.pad_trailing(codec, 22)} #{us(encode)} #{us(decode)}"
    )
  end

  defp us(time), do: time |> :erlang.float_to_binary(decimals: 1) |> String.pad_leading(11)
end

Snakepit.Bench.Values.run()
