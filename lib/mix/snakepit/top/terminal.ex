defmodule Mix.Snakepit.Top.Terminal do
  @moduledoc false
  # The terminal in the mode in which keys arrive at once and nothing is echoed. A shell process
  # sets it and restores it. That process ends with the BEAM, so the terminal is restored even if
  # the BEAM is killed.

  # The port leaves the terminal to the script, as 0 and 1, and talks to it over 3 and 4. Each line
  # asks for the size; the end of the input, or `end`, is the end.
  @script """
  [ -t 0 ] && [ -t 1 ] && saved=$(stty -g) || { echo none >&4; exit; }
  trap '' HUP INT QUIT TERM
  stty -icanon -echo -isig min 1 time 0
  printf '\\033[?1049h\\033[?25l'
  echo ready >&4
  while read -r line <&3 && [ "$line" != end ]; do stty size >&4; done
  printf '\\033[?25h\\033[?1049l'
  stty "$saved"
  echo restored >&4
  """

  @doc "Prepares the terminal. Returns `:none` if the input or the output is not one."
  @spec open() :: {:ok, port} | :none
  def open do
    sh = System.find_executable("sh")

    port =
      Port.open({:spawn_executable, sh}, [
        :nouse_stdio,
        :binary,
        :exit_status,
        line: 200,
        args: ["-c", @script]
      ])

    case answer(port) do
      "ready" -> {:ok, port}
      _none -> :none
    end
  end

  @doc "Its rows and columns."
  @spec size(port) :: {pos_integer, pos_integer}
  def size(port) do
    Port.command(port, "size\n")

    with text when is_binary(text) <- answer(port),
         [rows, columns] <- String.split(text),
         # A terminal that does not know its size says 0.
         {rows, columns} when rows > 3 and columns > 0 <-
           {String.to_integer(rows), String.to_integer(columns)} do
      {rows, columns}
    else
      _ -> {24, 80}
    end
  end

  @doc "Restores it."
  @spec close(port) :: :ok
  def close(port) do
    Port.command(port, "end\n")
    answer(port)
    :ok
  end

  defp answer(port) do
    receive do
      {^port, {:data, {_eol, line}}} -> line
      {^port, {:exit_status, _status}} -> nil
    end
  end
end
