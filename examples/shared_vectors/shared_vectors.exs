# mix run examples/shared_vectors/shared_vectors.exs [rows] [workers]
#
# Compares the memory of workers that map a file with that of workers that read it: 8 workers and 500 MB, unless given
# otherwise. On Linux. ../README.md says what to install.

{rows, workers} =
  case Enum.map(System.argv(), &String.to_integer/1) do
    [] -> {125_000, 8}
    [rows, workers] -> {rows, workers}
  end

path = Path.join(System.tmp_dir!(), "snakepit-vectors-#{System.pid()}.npy")

pool = fn class, options ->
  [
    name: Vectors,
    adapter_args: [class: "shared_vectors:#{class}", paths: [__DIR__]],
    python: Path.join(__DIR__, "../.venv/bin/python"),
    # Each thread of a library takes memory as well.
    thread_limit: 1,
    startup_timeout: 120_000,
    await_ready: true
  ]
  |> Keyword.merge(options)
  |> Snakepit.Pool.start_link()
end

# The memory of a process in MB; of pages that several processes have, its share.
memory = fn os_pid ->
  [_, kilobytes] = Regex.run(~r/^Pss: +(\d+) kB$/m, File.read!("/proc/#{os_pid}/smaps_rollup"))
  String.to_integer(kilobytes) * 1024 / 1_000_000
end

{:ok, writer} = pool.("Writer", size: 1)
{:ok, _} = Snakepit.execute("write", %{path: path, rows: rows}, pool: Vectors, timeout: 120_000)
Supervisor.stop(writer)

IO.puts("#{workers} workers, each of which has used all of a table of #{div(4 * rows, 1000)} MB\n")

for {how, mapped} <- [{"read", false}, {"mapped", true}] do
  init = [class: "shared_vectors:Vectors", paths: [__DIR__], init: %{path: path, mapped: mapped}]
  {:ok, vectors} = pool.("Vectors", size: workers, adapter_args: init)

  1..workers
  |> Task.async_stream(
    fn row ->
      {:ok, %{"result" => [^row | _]}} =
        Snakepit.execute("nearest", %{row: row}, pool: Vectors, timeout: 120_000)
    end,
    max_concurrency: workers,
    timeout: :infinity
  )
  |> Stream.run()

  {:ok, all} = Snakepit.list_workers(Vectors)
  megabytes = all |> Enum.map(&memory.(&1.os_pid)) |> Enum.sum()
  IO.puts("#{how}: #{round(megabytes)} MB")
  Supervisor.stop(vectors)
end

File.rm!(path)
