defmodule Mix.Snakepit.Program do
  @moduledoc false
  # Runs a program with a limit on its time, which `System.cmd/3` does not have.

  @doc """
  Runs a program and returns its output, both streams, and its exit status, or `:timeout` after it
  was killed. Options: `:cd`, `:env`, a map in which nil unsets a variable, and `:timeout` in ms.
  """
  @spec run(Path.t(), [String.t()], keyword) :: {String.t(), non_neg_integer | :timeout}
  def run(executable, args, options) do
    env = for {name, value} <- options[:env] || %{}, do: {to_charlist(name), variable(value)}

    settings = [
      :binary,
      :exit_status,
      :stderr_to_stdout,
      :hide,
      args: args,
      env: env,
      cd: options[:cd]
    ]

    port = Port.open({:spawn_executable, executable}, settings)
    collect(port, [], now() + Keyword.fetch!(options, :timeout))
  rescue
    # It cannot be started.
    error in ErlangError -> {"#{executable}: #{:file.format_error(error.original)}", 126}
  end

  defp collect(port, output, deadline) do
    receive do
      {^port, {:data, data}} -> collect(port, [output, data], deadline)
      {^port, {:exit_status, status}} -> {text(output), status}
    after
      max(deadline - now(), 0) ->
        kill(port)
        {text(output), :timeout}
    end
  end

  defp kill(port) do
    with {:os_pid, pid} <- Port.info(port, :os_pid), do: System.cmd("kill", ["-KILL", "#{pid}"])
    Port.close(port)
  rescue
    # It has ended meanwhile.
    ArgumentError -> :ok
  end

  # What a program prints need not be text.
  defp text(output) do
    output |> IO.iodata_to_binary() |> String.chunk(:valid) |> Enum.map_join(&valid/1)
  end

  defp valid(chunk), do: if(String.valid?(chunk), do: chunk, else: "\uFFFD")

  defp variable(nil), do: false
  defp variable(value), do: to_charlist(value)

  defp now, do: System.monotonic_time(:millisecond)
end
