defmodule Snakepit.TroubleshootingTest do
  # The messages that guides/troubleshooting.md explains are those of the code.
  use ExUnit.Case, async: true

  @root Path.expand("../..", __DIR__)
  @guide Path.join(@root, "guides/troubleshooting.md")
  @sources ~w(lib/**/*.ex native/*/src/**/*.rs python/snakepit_bridge/**/*.py)

  # Messages of other programs.
  @foreign ["linker 'cc' not found", "it was killed by SIG"]

  # What stands for a value: dots, quoted text, numbers, names.
  @values ~r/\.\.\.|'[^']*'|"[^"]*"|\b\d+\b|[(){}]|MyApp\.\w+|my_commands:\w+|MyCommands|\bargs\S*|\bresult\S*|\bdo not\b|\S+\.py\b|\S+\.Model\b|:\w+_timeout\b|\.venv\S*|\bwhile the call\b|\bpid\b|\bcount\b|Snakepit needs|Python \d/

  test "each message occurs in the code" do
    sources = sources()
    messages = messages()
    assert length(messages) > 35

    for message <- messages, not Enum.any?(@foreign, &String.contains?(message, &1)) do
      pieces = message |> String.split(@values) |> Enum.map(&plain/1)
      long = Enum.filter(pieces, &(String.length(&1) > 9))
      assert Enum.any?(long, &String.contains?(sources, &1)), "nothing says #{inspect(message)}"
    end
  end

  test "where a task is to install grpcio, it is asked to" do
    lines = for path <- guides(), line <- File.stream!(path), do: {Path.basename(path), line}

    offers =
      Enum.filter(lines, fn {_path, line} -> line =~ "grpcio" and line =~ "mix snakepit.setup" end)

    assert length(offers) >= 2

    for offer <- offers,
        do: assert(elem(offer, 1) =~ "mix snakepit.setup --grpcio", inspect(offer))
  end

  defp guides, do: Path.wildcard(Path.join(@root, "guides/*.md"))

  # The first cell of each row, in backticks.
  defp messages do
    for [_row, message] <- Regex.scan(~r/^\| `([^`]+)`/m, File.read!(@guide)), do: message
  end

  defp sources do
    for pattern <- @sources,
        file <- Path.wildcard(Path.join(@root, pattern)),
        into: "",
        do: file |> File.read!() |> plain()
  end

  # A message may be written in several literals, with values between them.
  defp plain(code) do
    code
    |> String.replace(~r/["']\s*(<>|\\)?\s*\n\s*(<>\s*)?f?["']/, "")
    |> String.replace(~r/\s+/, " ")
    |> String.downcase()
    |> String.trim()
  end
end
