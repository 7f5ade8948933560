defmodule Snakepit.TwoWayExamplesTest do
  # Runs the scripts of examples/two_way as their README says.
  use ExUnit.Case, async: true

  defp run(example, args \\ []) do
    script = "examples/two_way/#{example}.exs"
    options = [env: [{"MIX_ENV", "test"}], stderr_to_stdout: true]
    {output, status} = System.cmd("mix", ["run", script | args], options)
    assert status == 0, output
    output
  end

  test "agent asks for the trains of the towns that it considers" do
    output = run("agent")
    assert output =~ "  Thun can be reached in 18 minutes\n"
    assert output =~ "Bern - Olten - Zürich - Sargans - Chur: 133 minutes (13 towns considered)"
    assert run("agent", ["Brig", "Basel"]) =~ "no_way: no train leads from Brig to Basel"
  end

  test "train learns from a file that Elixir reads" do
    output = run("train")

    errors =
      for [_, error] <-
            Regex.scan(~r/^after \d+ rows: wrong by (\d+\.\d\d) on average$/m, output),
          do: String.to_float(error)

    assert length(errors) > 2
    assert Enum.all?(errors, &(&1 < 5.0))
  end

  test "chat passes on messages, and receives the answers" do
    output = run("chat")
    assert output =~ "to Ada: so far 'the' 1 times\n"
    assert output =~ "to Bob: so far 'the' 2 times\n"
    assert output =~ "to all: 8 different words\n"
  end
end
