defmodule Mix.Tasks.Snakepit.Call do
  @shortdoc "Calls a Python command and prints its result as JSON"

  @moduledoc """
  Calls a Python command and prints its result as JSON.

      $ mix snakepit.call greet name=you
      {"result": "Hello you"}
      $ mix snakepit.call add a:=2 b:=3 --pool MyApp.Python
      $ mix snakepit.call count to:=3 --stream
      $ mix snakepit.call greet name=you --class my_commands:MyCommands --path python

  `name=text` passes text, `name:=json` a value in JSON: `n:=3`, `names:='["Ada"]'`.

  The task starts the applications of the project and calls their pool. With `--class` it starts a
  worker of its own instead, and no application.

  Results are printed on standard output, log lines and errors on standard error. If the call fails,
  the exit status is 1. Bytes are shown as `{"base64": "..."}`, NaN and infinities as text.

  ## Options

    * `--stream` - calls a command that streams, and prints its chunks as they arrive, one per line
    * `--timeout` - how long the call may take, in ms; by default the pool's `:timeout`
    * `--pool` - the pool to call, if there are several: `--pool MyApp.Python`
    * `--class` - the command class of a worker of the task's own: `--class module:Class`
    * `--path` - a directory to import the class from; may be repeated
    * `--python` - the Python of that worker; by default that of `.venv`, otherwise `python3`
  """
  use Mix.Task

  alias Mix.Snakepit.{Arguments, JSON, Pools}

  @switches [stream: :boolean, timeout: :integer]

  @impl true
  def run(args) do
    Mix.Snakepit.run(__MODULE__, args, @switches ++ Pools.switches(), &run/2)
  end

  defp run(_options, []), do: Mix.Snakepit.usage!(__MODULE__, "expected the name of a command")

  defp run(options, [command | pairs]) do
    Pools.use(__MODULE__, options, fn pool ->
      case Arguments.parse(pairs) do
        {:ok, args} -> call(pool, command, args, options)
        {:error, message} -> Mix.Snakepit.usage!(__MODULE__, message)
      end
    end)
  end

  defp call(pool, command, args, options) do
    given = [pool: pool] ++ Keyword.take(options, [:timeout])

    result =
      if options[:stream],
        do: Snakepit.execute_stream(command, args, &print/1, given),
        else: Snakepit.execute(command, args, given)

    case result do
      :ok -> :ok
      {:ok, result} -> print(result)
      {:error, error} -> fail(error)
    end
  end

  defp print(value) do
    IO.puts(JSON.encode(value))
  end

  defp fail(error) do
    IO.puts(:stderr, Exception.message(error))
    Mix.Snakepit.fail()
  end
end
