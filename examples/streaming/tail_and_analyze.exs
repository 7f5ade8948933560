# mix run examples/streaming/tail_and_analyze.exs
#
# One process summarizes the files of examples/data and writes a log. Another follows that log
# while it grows: Python selects the lines, and a GenServer receives them as messages and cancels the
# stream after the last one.

defmodule LogWatch do
  use GenServer
  require Snakepit

  @patterns %{
    "error" => "^ERROR",
    "large" => "\\b\\d{5,} rows",
    "end" => "no more files"
  }

  def start_link(path), do: GenServer.start_link(__MODULE__, path)

  def await_end(watch) do
    monitor = Process.monitor(watch)

    receive do
      {:DOWN, ^monitor, :process, _watch, _reason} -> :ok
    end
  end

  @impl true
  def init(path) do
    options = [pool: Python, timeout: :infinity, demand: 10]
    args = %{path: path, patterns: @patterns}

    with {:error, error} <- Snakepit.start_stream("tail_and_analyze", args, options),
         do: {:stop, error}
  end

  @impl true
  def handle_info({:snakepit, ref, {:chunks, matches}}, %{ref: ref} = call) do
    for %{"number" => number, "line" => line, "patterns" => patterns} <- matches,
        do: IO.puts("line #{number}, #{Enum.join(patterns, " and ")}: #{line}")

    %{"patterns" => patterns, "seen" => seen} = List.last(matches)

    if "end" in patterns do
      Snakepit.cancel(call)
      IO.puts("\nlines with an error: #{seen["error"]}, about a large file: #{seen["large"]}")
      {:stop, :normal, call}
    else
      Snakepit.ask(call, length(matches))
      {:noreply, call}
    end
  end

  def handle_info({:snakepit, _ref, {:error, error}} = event, call)
      when Snakepit.is_event(event, call),
      do: {:stop, error, call}
end

defmodule Summaries do
  def write(log, folder) do
    for name <- Enum.sort(File.ls!(folder)), do: write_one(log, Path.join(folder, name))
    IO.puts(log, "INFO no more files")
  end

  defp write_one(log, path) do
    IO.puts(log, "INFO #{Path.basename(path)}")
    report = fn chunk -> if chunk["is_final"], do: IO.puts(log, "INFO #{chunk["rows"]} rows") end

    with {:error, error} <-
           Snakepit.execute_stream("process_large_dataset", %{path: path}, report, pool: Python),
         do: IO.puts(log, "ERROR #{error.message}")
  end
end

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Python,
    size: 2,
    startup_timeout: 120_000,
    adapter_args: [class: "logs:Logs", paths: [Path.join(__DIR__, "python")]]
  )

:ok = Snakepit.Pool.await_ready(Python, 120_000)

path = Path.join(System.tmp_dir!(), "snakepit-example-#{System.pid()}.log")
log = File.open!(path, [:append])
{:ok, watch} = LogWatch.start_link(path)

Summaries.write(log, Path.expand("../data", __DIR__))
:ok = LogWatch.await_end(watch)
File.rm!(path)
