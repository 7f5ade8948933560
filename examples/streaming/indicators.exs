# mix run examples/streaming/indicators.exs [prices.csv]
#
# Shows when the MACD of the oil price crossed above its signal line, and how strong the price was then
# (RSI). Python reads the file and computes; Elixir's `Stream` compares two days at a time.

path = List.first(System.argv()) || Path.join(__DIR__, "../data/wti.csv")

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Indicators,
    size: 1,
    startup_timeout: 120_000,
    adapter_args: [class: "indicators:Indicators", paths: [Path.join(__DIR__, "python")]]
  )

:ok = Snakepit.Pool.await_ready(Indicators, 120_000)

above? = fn day -> day["macd"] > day["signal"] end
number = fn value -> :erlang.float_to_binary(value, decimals: 2) end

IO.puts("date, price, RSI, MACD")

"indicators"
|> Snakepit.stream(%{path: Path.expand(path)}, pool: Indicators)
|> Stream.reject(&is_nil(&1["rsi"]))
|> Stream.chunk_every(2, 1, :discard)
|> Stream.filter(fn [before, day] -> not above?.(before) and above?.(day) end)
|> Stream.map(fn [_before, day] -> day end)
|> Enum.take(-10)
|> Enum.each(fn day ->
  values = Enum.map(~w(price rsi macd), &number.(day[&1]))
  IO.puts(Enum.join([day["date"] | values], ", "))
end)
