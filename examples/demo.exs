# make demo [CSV=file.csv]
#
# Starts a pool of two Python workers, makes one call, and summarizes the columns of a CSV file, whose
# intermediate statistics arrive as a stream.

defmodule Demo.Table do
  @number ~w(count missing min mean max stddev)
  @text ~w(count missing distinct)

  def render(columns) do
    columns
    |> Enum.sort()
    |> Enum.split_with(fn {_name, column} -> column["type"] == "number" end)
    |> then(fn {numbers, texts} -> [section(numbers, @number), section(texts, @text)] end)
  end

  def number(value) when is_integer(value) do
    value |> Integer.to_string() |> String.replace(~r/\B(?=(\d{3})+$)/, ",")
  end

  def number(value) when value == 0 or (abs(value) >= 0.1 and abs(value) < 1.0e9),
    do: decimal(value, 2)

  def number(value) when abs(value) >= 0.0001 and abs(value) < 0.1, do: decimal(value, 4)
  def number(value), do: :erlang.float_to_binary(value, scientific: 2)

  def decimal(value, places), do: :erlang.float_to_binary(value, decimals: places)

  defp section([], _keys), do: []

  defp section(columns, keys) do
    header = ["column" | keys]
    rows = for {name, column} <- columns, do: [name | Enum.map(keys, &cell(column, &1))]

    widths =
      Enum.zip_with([header | rows], fn cells ->
        cells |> Enum.map(&String.length/1) |> Enum.max()
      end)

    ["\n" | Enum.map([header | rows], &line(&1, widths))]
  end

  defp cell(%{"distinct" => value, "distinct_capped" => true}, "distinct"),
    do: number(value) <> "+"

  defp cell(column, key), do: number(column[key])

  defp line([name | cells], [width | widths]) do
    cells = Enum.zip_with(cells, widths, &["  ", String.pad_leading(&1, &2)])
    [String.pad_trailing(name, width), cells, "\n"]
  end
end

defmodule Demo.Progress do
  alias Demo.Table

  @width 78

  # On a terminal the line is overwritten; otherwise one line is printed per tenth of the file.
  def print(chunk) do
    if IO.ANSI.enabled?() do
      IO.write(["\r", IO.ANSI.clear_line(), line(chunk)])
    else
      tenth = floor(chunk["progress"] * 10)
      if Process.put(__MODULE__, tenth) != tenth, do: IO.puts(line(chunk))
    end
  end

  def finish, do: if(IO.ANSI.enabled?(), do: IO.write(["\r", IO.ANSI.clear_line()]))

  # Shows as many of the current means as fit into the line.
  defp line(chunk) do
    percent = String.pad_leading("#{floor(chunk["progress"] * 100)}%", 4)
    rows = String.pad_leading(Table.number(chunk["rows"]), 10)

    Enum.reduce_while(means(chunk["columns"]), "#{percent} #{rows} rows, means:", fn mean, line ->
      longer = line <> "  " <> mean
      if String.length(longer) <= @width, do: {:cont, longer}, else: {:halt, line}
    end)
  end

  defp means(columns) do
    for {name, %{"mean" => mean, "stddev" => spread}} <- Enum.sort(columns), spread > 0 do
      "#{name} #{Table.number(mean)}"
    end
  end
end

defmodule Demo do
  alias Demo.{Progress, Table}

  @file_by_default Path.join(__DIR__, "data/weather.csv")
  @commands [class: "dataset:Datasets", paths: [Path.join(__DIR__, "streaming/python")]]
  @pool [name: Demo.Pool, size: 2, adapter_args: @commands]

  def main(argv) do
    path = Path.expand(List.first(argv) || @file_by_default)

    {:ok, supervisor} = Supervisor.start_link([], strategy: :one_for_one)

    result =
      with :ok <- start_pool(supervisor),
           :ok <- compute(),
           do: process(path)

    Supervisor.stop(supervisor)

    with {:error, error} <- result do
      IO.puts(:stderr, "\n" <> Exception.message(error))
      exit({:shutdown, 1})
    end
  end

  defp start_pool(supervisor) do
    IO.puts("Starting two Python workers ...")

    {time, result} =
      :timer.tc(fn ->
        {:ok, _} = Supervisor.start_child(supervisor, {Snakepit.Pool, @pool})
        Snakepit.Pool.await_ready(Demo.Pool, 120_000)
      end)

    with :ok <- result, do: IO.puts("ready in #{ms(time)}\n")
  end

  defp compute do
    args = %{operation: "multiply", a: 6, b: 7}

    {time, result} = :timer.tc(fn -> Snakepit.execute("compute", args, pool: Demo.Pool) end)

    with {:ok, %{"result" => product}} <- result do
      IO.puts("compute: 6 * 7 = #{product}, answered in #{ms(time)}\n")
    end
  end

  defp process(path) do
    IO.puts("process_large_dataset: #{Path.relative_to_cwd(path)}")
    args = %{path: path, chunk_rows: 500}

    Snakepit.execute_stream("process_large_dataset", args, &show/1,
      pool: Demo.Pool,
      timeout: :infinity
    )
  end

  defp show(%{"is_final" => true} = summary) do
    Progress.finish()
    IO.write(Table.render(summary["columns"]))
    seconds = Table.decimal(summary["duration"], 2)
    megabytes = Table.decimal(summary["bytes_read"] / 1_000_000, 1)
    IO.puts("\n#{Table.number(summary["rows"])} rows, #{megabytes} MB in #{seconds} s")
  end

  defp show(chunk), do: Progress.print(chunk)

  defp ms(microseconds), do: Table.decimal(microseconds / 1000, 2) <> " ms"
end

Demo.main(System.argv())
