defmodule Snakepit.Test.Formatter do
  @moduledoc false
  # ExUnit's formatter for the command line, with a bound on what one failed test prints (the log
  # captured in it is that of all tests that run at the same time, and a value may have megabytes)
  # and a list of what failed at the end: of a long log only the last lines may be kept.
  use GenServer

  alias ExUnit.CLIFormatter

  @max_bytes 20_000
  @max_line 500

  @impl true
  def init(options) do
    {:ok, cli} = CLIFormatter.init(options)
    {:ok, %{cli: cli, failed: []}}
  end

  @impl true
  def handle_cast(event, state) do
    {:noreply, cli} = event |> bounded_event() |> CLIFormatter.handle_cast(state.cli)
    state = %{state | cli: cli, failed: failed(event) ++ state.failed}
    if elem(event, 0) == :suite_finished, do: IO.write(list_of_failed(state.failed))
    {:noreply, state}
  end

  defp bounded_event({:test_finished, test}), do: {:test_finished, bounded(test)}
  defp bounded_event(event), do: event

  defp failed({:test_finished, %{state: {:failed, failures}} = test}),
    do: [{Path.relative_to_cwd(test.tags.file), test.tags.line, test.name, failures}]

  defp failed({:module_finished, %{state: {:failed, failures}} = module}),
    do: [{Path.relative_to_cwd(module.file), 1, module.name, failures}]

  defp failed(_event), do: []

  @doc "The list of failed tests, the first one first, each with the first line of its reason."
  def list_of_failed([]), do: ""

  def list_of_failed(failed) do
    lines =
      for {file, line, name, failures} <- Enum.reverse(failed),
          do: ["  ", cut_line("#{file}:#{line} #{name}: #{first_line(failures)}"), "\n"]

    IO.iodata_to_binary(["\nFailed:\n" | lines])
  end

  defp first_line([{kind, reason, stack} | _rest]) do
    kind
    |> Exception.format_banner(bounded_reason(reason), stack)
    |> String.split("\n", trim: true)
    |> Enum.take(3)
    |> Enum.map_join(" ", &String.trim/1)
  end

  @doc "Limits the log and the values that are printed for a test."
  def bounded(%{state: {:failed, failures}} = test) do
    failures = for {kind, reason, stack} <- failures, do: {kind, bounded_reason(reason), stack}
    %{test | state: {:failed, failures}, logs: bounded_log(test.logs)}
  end

  def bounded(test), do: test

  defp bounded_reason(%ExUnit.AssertionError{} = error) do
    fields = for key <- [:left, :right, :args], do: {key, bounded_value(Map.fetch!(error, key))}
    error = struct!(error, fields)
    if is_binary(error.message), do: %{error | message: cut(error.message)}, else: error
  end

  defp bounded_reason(reason), do: bounded_value(reason)

  defp bounded_value(value) do
    if :erlang.external_size(value) > @max_bytes,
      do: inspect(value, limit: 50, printable_limit: 1_000, structs: false),
      else: value
  end

  # The last lines say what happened.
  defp bounded_log(log) do
    lines = log |> String.split("\n") |> Enum.map(&cut_line/1)
    {kept, left_out} = last_lines(Enum.reverse(lines), 0, [])

    if left_out == 0,
      do: Enum.join(kept, "\n"),
      else: Enum.join([left_out(left_out) | kept], "\n")
  end

  defp last_lines([], _bytes, kept), do: {kept, 0}

  defp last_lines([line | rest] = lines, bytes, kept) do
    bytes = bytes + byte_size(line) + 1
    if bytes > @max_bytes, do: {kept, length(lines)}, else: last_lines(rest, bytes, [line | kept])
  end

  defp left_out(lines), do: "... #{lines} lines before these are left out"

  defp cut_line(line) when byte_size(line) <= @max_line, do: line
  defp cut_line(line), do: first(line, @max_line) <> " ..."

  defp cut(text) when byte_size(text) <= @max_bytes, do: text
  defp cut(text), do: first(text, @max_bytes) <> " ..."

  # Cut only at whole characters: invalid text would end the formatter, and with it the report of
  # the run.
  defp first(text, bytes) do
    case text |> binary_part(0, bytes) |> :unicode.characters_to_binary() do
      text when is_binary(text) -> text
      {_incomplete, text, _rest} -> text
    end
  end
end
