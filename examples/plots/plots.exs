# mix run examples/plots/plots.exs [weather.png]
#
# Draws with matplotlib. The picture arrives as a binary: write it to a file, or send it to a browser as
# `put_resp_content_type(conn, "image/png")` and `send_resp(conn, 200, png)` do.

out = List.first(System.argv()) || Path.join(System.tmp_dir!(), "weather.png")

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Plots,
    size: 1,
    startup_timeout: 120_000,
    adapter_args: [class: "plots:Plots", paths: [__DIR__]],
    python: Path.join(__DIR__, "../.venv/bin/python")
  )

:ok = Snakepit.Pool.await_ready(Plots, 120_000)

args = %{
  path: Path.expand("../data/weather.csv", __DIR__),
  columns: ~w(temp humid wind_speed),
  title: "New York's airports in 2013"
}

{:ok, %{"result" => png}} = Snakepit.execute("monthly", args, pool: Plots, timeout: 120_000)
File.write!(out, png)
IO.puts("#{byte_size(png)} bytes in #{out}")
