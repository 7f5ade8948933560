# mix run examples/thumbnails/thumbnails.exs [folder for the thumbnails]
#
# Makes thumbnails of photographs in several sizes, on all workers at once. `Task.async_stream` starts no
# more calls than there are workers; the pictures travel as they are.

out = List.first(System.argv()) || Path.join(System.tmp_dir!(), "snakepit-thumbnails")
File.mkdir_p!(out)

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Thumbnails,
    size: 2,
    startup_timeout: 120_000,
    adapter_args: [class: "thumbnails:Thumbnails", paths: [__DIR__]],
    python: Path.join(__DIR__, "../.venv/bin/python")
  )

:ok = Snakepit.Pool.await_ready(Thumbnails, 120_000)
{:ok, photos} = Snakepit.execute("samples", %{}, pool: Thumbnails, timeout: 120_000)

jobs = for {name, picture} <- photos, size <- [64, 128, 256], do: {name, picture, size}

make = fn {name, picture, size} ->
  args = %{picture: picture, width: size, height: size}

  with {:ok, %{"jpeg" => jpeg}} <-
         Snakepit.execute("thumbnail", args, pool: Thumbnails, timeout: 120_000) do
    path = Path.join(out, "#{Path.rootname(name)}-#{size}.jpg")
    File.write!(path, jpeg)
    {:ok, {Path.basename(path), byte_size(picture), byte_size(jpeg)}}
  end
end

jobs
|> Task.async_stream(make, max_concurrency: 2, timeout: :infinity)
|> Enum.each(fn
  {:ok, {:ok, {name, before, now}}} -> IO.puts("#{name}: #{before} -> #{now} bytes")
  {:ok, {:error, error}} -> IO.puts(:stderr, Exception.message(error))
end)

IO.puts("#{length(jobs)} thumbnails in #{out}")
