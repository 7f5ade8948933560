defmodule Mix.Tasks.Snakepit.Commands do
  @shortdoc "Lists the Python commands of a pool"

  @moduledoc """
  Lists the Python commands of a pool, each with its signature and its docstring.

      $ mix snakepit.commands
      count(to: int) -> stream
          Counts from 1.
      greet(name: str, times: int = 1)
          Greets somebody.
      $ mix snakepit.commands --class my_commands:MyCommands --path python

  The task starts the applications of the project and asks their pool. With `--class` it starts a
  worker of its own instead, and no application.

  ## Options

    * `--pool` - the pool to ask, if there are several: `--pool MyApp.Python`
    * `--class` - the command class of a worker of the task's own: `--class module:Class`
    * `--path` - a directory to import the class from; may be repeated
    * `--python` - the Python of that worker; by default that of `.venv`, otherwise `python3`
  """
  use Mix.Task

  alias Mix.Snakepit.Pools

  @impl true
  def run(args) do
    Mix.Snakepit.run(__MODULE__, args, Pools.switches(), fn options, rest ->
      Mix.Snakepit.no_arguments!(__MODULE__, rest)
      Pools.use(__MODULE__, options, &list/1)
    end)
  end

  defp list(pool) do
    case Pools.commands(pool) do
      {:ok, commands} -> Enum.each(commands, &IO.puts(format(&1)))
      {:error, error} -> Mix.raise(Exception.message(error))
    end
  end

  defp format(command) do
    async = if command.async, do: "async "
    streams = if command.streams, do: " -> stream"
    doc = for line <- String.split(command.doc || "", "\n"), line != "", do: ["\n    ", line]
    [async || "", command.signature, streams || "" | doc]
  end
end
