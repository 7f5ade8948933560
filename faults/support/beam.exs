defmodule Snakepit.Faults.Beam do
  @moduledoc false
  # A BEAM with pools of every kind, faults/support/victim.exs, to be killed from outside.

  defstruct [:port, :os_pid, lines: []]

  @doc "Starts it in a situation, and waits until it has reached that situation."
  def start!(situation, options \\ []) do
    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 10_000,
        args:
          paths ++
            ["-e", "Snakepit.Faults.Victim.main(System.argv())", situation, inspect(options)]
      ])

    await(%__MODULE__{port: port}, "victim")
  end

  @doc "Waits for a line with this prefix, and reads on."
  def await(beam, begin) do
    case line(beam, begin) do
      {:ok, rest, beam} ->
        if begin == "victim", do: %{beam | os_pid: String.to_integer(rest)}, else: beam

      {:ended, status} ->
        throw({:gave_up, "the victim ended with #{status} before it said #{begin}"})

      :hangs ->
        throw({:gave_up, "the victim never said #{begin}"})
    end
  end

  @doc "Returns all further lines up to its end, and its status."
  def finish(beam) do
    case line(beam, nil) do
      {:ended, status} -> {Enum.reverse(Process.delete({:lines, beam.port}) || []), status}
      :hangs -> throw({:gave_up, "the victim does not end"})
    end
  end

  defp line(%{port: port} = beam, begin) do
    receive do
      {^port, {:data, {_, "@" <> line}}} ->
        case String.split(line, " ", parts: 2) do
          [^begin | rest] -> {:ok, Enum.join(rest), beam}
          _ -> keep(beam, line, begin)
        end

      {^port, {:data, {_, line}}} ->
        IO.puts("victim: #{line}")
        line(beam, begin)

      {^port, {:exit_status, status}} ->
        {:ended, status}
    after
      60_000 -> :hangs
    end
  end

  defp keep(beam, line, begin) do
    Process.put({:lines, beam.port}, [line | Process.get({:lines, beam.port}, [])])
    line(beam, begin)
  end
end
