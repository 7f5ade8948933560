# mix run examples/two_way/agent.exs [from] [to]
#
# A planner in Python searches the fastest way between two towns. The timetable is in Elixir, which the planner asks for
# the trains of a town when it considers that.

{from, to} =
  case System.argv() do
    [from, to] -> {from, to}
    _none -> {"Bern", "Chur"}
  end

timetable = %{
  "Bern" => [{"Thun", 18}, {"Olten", 27}, {"Fribourg", 22}],
  "Thun" => [{"Brig", 50}, {"Interlaken", 31}],
  "Olten" => [{"Zürich", 32}, {"Luzern", 35}, {"Basel", 24}],
  "Luzern" => [{"Zürich", 41}, {"Arth-Goldau", 27}],
  "Zürich" => [{"Sargans", 54}, {"St. Gallen", 63}],
  "Brig" => [{"Chur", 262}],
  "Sargans" => [{"Chur", 20}],
  "Fribourg" => [{"Lausanne", 43}]
}

tools = [
  trains: fn %{"town" => town} ->
    for {to, minutes} <- Map.get(timetable, town, []), do: %{to: to, minutes: minutes}
  end,
  note: fn %{"text" => text} -> IO.puts("  " <> text) end
]

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Agent.Pool,
    size: 1,
    adapter_args: [class: "agent:Agent", paths: [Path.join(__DIR__, "python")]]
  )

case Snakepit.execute("plan", %{start: from, goal: to}, pool: Agent.Pool, tools: tools) do
  {:ok, %{"way" => way, "minutes" => minutes, "asked" => asked}} ->
    IO.puts("#{Enum.join(way, " - ")}: #{minutes} minutes (#{asked} towns considered)")

  {:error, error} ->
    IO.puts(Exception.message(error))
end
