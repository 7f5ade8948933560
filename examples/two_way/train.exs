# mix run examples/two_way/train.exs [prices.csv]
#
# Python learns from a file that Elixir reads, line by line, as Python takes the lines. It reports meanwhile how far its
# predictions are from the prices.

path = List.first(System.argv()) || Path.join(__DIR__, "../data/wti.csv")

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Prices,
    size: 1,
    adapter_args: [class: "prices:Prices", paths: [Path.join(__DIR__, "python")]]
  )

rows = path |> File.stream!() |> Stream.map(&String.trim/1)

"train"
|> Snakepit.stream(%{rows: Snakepit.input(rows), every: 2_000}, pool: Prices)
|> Enum.each(fn %{"rows" => rows, "mean_error" => error} ->
  IO.puts("after #{rows} rows: wrong by #{:erlang.float_to_binary(error, decimals: 2)} on average")
end)
