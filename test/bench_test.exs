defmodule Snakepit.BenchTest do
  use ExUnit.Case, async: true

  @root File.cwd!()

  defp cost(args) do
    System.cmd("mix", ["run", "bench/cost.exs" | args],
      cd: @root,
      env: [{"MIX_ENV", "test"}],
      stderr_to_stdout: true
    )
  end

  # The rows of each group of the table: name, Snakepit's figure, the rest of the line.
  defp table(output) do
    for group <- String.split(output, "\n\n"),
        [title | rows] = String.split(group, "\n"),
        into: %{} do
      {title,
       for("  " <> row <- rows, do: row |> String.split(~r/ {2,}/) |> then(&{hd(&1), tl(&1)}))}
    end
  end

  # It starts a dozen BEAMs, some of them on one CPU beside a busy process.
  @tag timeout: 3_600_000
  test "bench/cost.exs measures Snakepit and its yardsticks in each part" do
    few = ~w(--rounds 1 --scale 0.001 --workers 1,2 --megabytes 1,2)
    {output, status} = cost(few)
    assert status == 0, output
    table = table(output)

    groups = [
      "one call at a time, one CPU",
      "32 callers, one CPU",
      "beside a busy process",
      "on one CPU, with a busy process",
      "32 callers on one worker",
      "on one worker",
      "32 callers over 1 worker",
      "32 callers over 2 workers",
      "2 workers, idle",
      "an echo of 64 KiB",
      "an echo of 4 MiB",
      "an echo of 1 MB",
      "an echo of 2 MB"
    ]

    assert groups -- Map.keys(table) == []

    # Each yardstick's figure has the ratio to Snakepit's.
    for {group, row, yardsticks} <- [
          {"one call at a time, one CPU", "p50", 2},
          {"one call at a time, one CPU", "CPU, both ends", 2},
          {"32 callers on one worker", "calls", 2},
          {"32 callers over 2 workers", "calls", 1},
          {"an echo of 64 KiB", "p50", 1},
          {"an echo of 2 MB", "memory at its peak, Python", 1}
        ] do
      {_, cells} = List.keyfind(table[group], row, 0)
      ratios = Enum.filter(cells, &(&1 =~ ~r/^[\d,.]+ \(\d+\.\d\d\)$/))
      assert length(ratios) == yardsticks, inspect({group, row, cells})
    end

    assert output =~ "JSON: the bench's own JSON in Elixir" or
             output =~ "JSON: OTP's json in Elixir"

    # Without erlport nothing is compared with it; all other targets are judged.
    assert output =~ "not judged: at most 1 x erlport"
    assert output =~ ~r/(met|missed): at most 1.2 x Port \+ JSON/
    refute output =~ ~r/not judged: .* x (raw Port|Port \+ JSON)/
  end

  test "bench/cost.exs names the parts that it has when it is asked for another" do
    {output, status} = cost(~w(--only lone,nothing))
    assert status == 2
    assert output =~ "there is no part nothing; there are "
    assert output =~ "lone"
  end
end
