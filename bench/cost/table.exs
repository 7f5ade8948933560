defmodule Snakepit.Bench.Cost.Table do
  @moduledoc false
  # The table at the end: the median over all rounds for each peer; in brackets Snakepit's figure as
  # a multiple of the yardstick's, the median of this ratio within each round; and the target.

  alias Snakepit.Bench.Cost.Peers

  @name 36
  @unit 9
  @cell 18

  def print(rows) do
    labels = Enum.map_join(Peers.labels(), &cell(elem(&1, 1)))
    IO.puts("\n" <> String.duplicate(" ", @name + @unit) <> labels <> "  target")

    for {group, rows} <- groups(rows) do
      IO.puts("\n" <> group)
      for row <- rows, do: IO.puts(line(row))
    end
  end

  # Groups stand in the order in which they were measured.
  defp groups(rows), do: rows |> Enum.chunk_by(& &1.group) |> Enum.map(&{hd(&1).group, &1})

  defp line(row) do
    name = String.pad_trailing("  " <> row.name, @name)
    unit = String.pad_trailing(row.unit, @unit)
    cells = for {peer, _label} <- Peers.labels(), do: cell(text(row.series, peer))
    String.trim_trailing(name <> unit <> Enum.join(cells) <> "  " <> target(row))
  end

  defp cell(text), do: String.pad_leading(text, @cell)

  defp text(series, peer) do
    case series[peer] do
      nil -> "–"
      [nil | _] -> "not counted"
      values when peer == :snakepit -> number(median(values))
      values -> number(median(values)) <> brackets(ratios(series, peer))
    end
  end

  defp brackets([]), do: ""
  defp brackets(ratios), do: " (#{:erlang.float_to_binary(median(ratios), decimals: 2)})"

  defp target(%{target: nil}), do: ""

  defp target(%{target: target, series: series}) do
    case verdict(target, series) do
      nil -> "not judged: #{words(target)}"
      true -> "met: #{words(target)}"
      false -> "missed: #{words(target)}"
    end
  end

  @doc "Whether a target is met; nil where its yardstick was not measured."
  def verdict({bound, limit}, series), do: holds?(bound, median(series[:snakepit]), limit)

  def verdict({bound, limit, yardstick}, series) do
    ratios = ratios(series, yardstick)
    if ratios != [], do: holds?(bound, median(ratios), limit)
  end

  def verdict({bound, limit, yardstick, :each_round}, series) do
    ratios = ratios(series, yardstick)
    if ratios != [], do: Enum.all?(ratios, &holds?(bound, &1, limit))
  end

  defp holds?(:at_most, value, limit), do: value <= limit
  defp holds?(:at_least, value, limit), do: value >= limit

  defp words({bound, limit}), do: "#{words(bound)} #{limit}"
  defp words({bound, limit, yardstick}), do: "#{words(bound)} #{limit} x #{label(yardstick)}"

  defp words({bound, limit, yardstick, :each_round}),
    do: words({bound, limit, yardstick}) <> " in each round"

  defp words(:at_most), do: "at most"
  defp words(:at_least), do: "at least"

  defp label(peer), do: Keyword.fetch!(Peers.labels(), peer)

  defp ratios(series, yardstick) do
    for {own, other} <- Enum.zip(series[:snakepit] || [], series[yardstick] || []),
        is_number(own) and is_number(other) and other > 0,
        do: own / other
  end

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  # Three digits, or all before the point.
  defp number(value) when value >= 99.95, do: value |> round() |> thousands()
  defp number(value) when value >= 9.995, do: decimals(value, 1)
  defp number(value), do: decimals(value, 2)

  defp decimals(value, count), do: :erlang.float_to_binary(value * 1.0, decimals: count)

  defp thousands(integer) do
    integer |> to_string() |> String.replace(~r/(?<=\d)(?=(\d{3})+$)/, ",")
  end
end
