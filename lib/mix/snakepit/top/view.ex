defmodule Mix.Snakepit.Top.View do
  @moduledoc false
  # What `mix snakepit.top` shows, as lines of text.

  alias Snakepit.Top.Format

  @type line :: {:plain | :title | :bad, String.t()}

  @doc "The lines for samples of a node, the latest first. Rates are those between the first and the last."
  @spec lines([map, ...]) :: [line]
  def lines([now | _] = samples) do
    old = List.last(samples)
    seconds = max((now.at - old.at) / 1000, 0.001)

    [title(now, seconds), {:plain, ""}] ++
      none(now) ++
      Enum.flat_map(now.pools, &pool(&1, old, seconds)) ++
      errors(now)
  end

  defp title(now, seconds),
    do:
      {:title,
       "snakepit top  #{now.node}  #{Format.time(now.time)}  rates of the last #{round(seconds)} s"}

  defp none(%{pools: []}), do: [{:plain, "no pool is running"}]
  defp none(_now), do: []

  defp pool(%{error: error, name: name}, _old, _seconds) when error != nil,
    do: [{:title, inspect(name)}, {:bad, "  #{error}"}, {:plain, ""}]

  defp pool(%{stats: stats} = pool, old, seconds) do
    before = Enum.find(old.pools, &(&1.name == pool.name and &1.error == nil)) || pool
    kind = if stats.ready < stats.size, do: :bad, else: :plain
    ready = "#{stats.ready} of #{stats.size} ready"

    [
      {:title, inspect(pool.name)},
      {kind, "  " <> Enum.join([ready | rates(pool, before, seconds)], "   ")},
      {:plain,
       "  " <>
         Enum.join(
           [
             "execution #{Format.times(stats.last_minute.execution_us)}",
             "queue #{Format.times(stats.last_minute.queue_us)}"
           ],
           "   "
         )},
      {:plain,
       "  " <>
         Enum.join(
           [
             "in flight #{stats.in_flight}",
             "queued #{stats.queued}",
             "sessions #{stats.sessions}",
             "restarts #{stats.restarts}",
             "recycled #{stats.recycled}",
             "memory #{Format.memory(stats.memory_bytes)}"
           ],
           "   "
         )},
      {:plain, row(Format.titles())}
    ] ++ Enum.flat_map(pool.workers, &worker/1) ++ [{:plain, ""}]
  end

  defp rates(%{stats: now}, %{stats: before}, seconds) do
    [
      Format.rate(max(now.calls - before.calls, 0) / seconds, "calls"),
      Format.rate(max(errors_of(now) - errors_of(before), 0) / seconds, "errors")
    ]
  end

  defp errors_of(stats), do: stats.errors_by_reason |> Map.values() |> Enum.sum()

  defp worker(worker) do
    kind = if worker.state == :ready, do: :plain, else: :bad
    reason = for text <- List.wrap(Format.reason(worker)), do: {:bad, "    #{text}"}
    progress = for call <- worker.progress, do: {:plain, "    #{Format.progress(call)}"}
    [{kind, row(Format.worker(worker))} | reason] ++ progress
  end

  @widths [26, 9, 8, 6, 10, 7, 10, 6, 8]

  # The first two cells are texts, all others numbers.
  defp row(cells) do
    [id, state | numbers] = cells
    [id_width, state_width | widths] = @widths
    numbers = Enum.zip_with(numbers, widths, &String.pad_leading/2)

    ["  ", String.pad_trailing(id, id_width), String.pad_trailing(state, state_width) | numbers]
    |> IO.iodata_to_binary()
  end

  defp errors(%{telemetry: false}), do: [{:plain, "the last errors need :telemetry"}]
  defp errors(%{errors: []}), do: []

  defp errors(%{errors: errors}) do
    [
      {:title, "last errors"}
      | for(e <- errors, do: {:plain, "  #{Format.time(e.at)}  #{inspect(e.pool)}  #{e.text}"})
    ]
  end

  @doc "The lines as plain text."
  @spec plain([line]) :: iodata
  def plain(lines), do: for({_kind, text} <- lines, do: [text, ?\n])

  @doc "The lines as what a terminal of this size shows, drawn over what it shows now."
  @spec screen([line], {pos_integer, pos_integer}) :: iodata
  def screen(lines, {rows, columns}) do
    lines =
      if length(lines) >= rows,
        do:
          Enum.take(lines, rows - 2) ++ [{:plain, "... #{length(lines) - rows + 2} more lines"}],
        else: lines

    lines = for {kind, text} <- lines, do: [colored(kind, cut(text, columns)), "\e[K\r\n"]
    ["\e[H", lines, "q quits\e[K\e[J"]
  end

  # Control characters would move the cursor.
  defp cut(text, columns),
    do: text |> String.replace(~r/[[:cntrl:]]/, " ") |> String.slice(0, columns)

  defp colored(:plain, text), do: text
  defp colored(:title, text), do: ["\e[1m", text, "\e[0m"]
  defp colored(:bad, text), do: ["\e[31m", text, "\e[0m"]
end
