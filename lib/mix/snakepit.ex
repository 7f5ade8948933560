defmodule Mix.Snakepit do
  @moduledoc false
  # What the Mix tasks share: their options, variables, `--help`, and how they print and fail.

  @doc """
  Parses the arguments of a task and runs `fun` with its options and the other arguments.

  `--help` prints the documentation of the task instead. An unknown option ends the task with the
  list of those that there are.
  """
  @spec run(module, [String.t()], keyword, (keyword, [String.t()] -> result)) :: result | :ok
        when result: var
  def run(task, args, switches, fun) do
    {options, rest, invalid} =
      OptionParser.parse(args, strict: [help: :boolean] ++ switches, aliases: [h: :help])

    cond do
      options[:help] -> Mix.Tasks.Help.run([Mix.Task.task_name(task)])
      invalid != [] -> invalid!(task, hd(invalid), switches)
      true -> fun.(options, rest)
    end
  end

  defp invalid!(task, {name, value}, switches) do
    known = Enum.map(switches, fn {key, type} -> {option(key, type), type} end)
    {_, type} = List.keyfind(known, name, 0, {name, nil})

    cond do
      type == nil ->
        usage!(task, "there is no option #{name}; the options are #{names(known)}")

      value == nil ->
        usage!(task, "the option #{name} needs a value")

      true ->
        usage!(task, "the option #{name} must be #{expected(type)}, got: #{value}")
    end
  end

  defp option(key, _type), do: "--" <> String.replace(to_string(key), "_", "-")

  defp names(known), do: Enum.map_join(known, ", ", &elem(&1, 0))

  defp expected([type, :keep]), do: expected(type)
  defp expected(:integer), do: "a whole number"
  defp expected(:float), do: "a number"
  defp expected(_type), do: "text"

  @doc "Ends a task whose arguments are wrong."
  @spec usage!(module, String.t()) :: no_return
  def usage!(task, message) do
    name = Mix.Task.task_name(task)
    Mix.raise("mix #{name}: #{message} (mix help #{name})")
  end

  @doc "Refuses arguments other than options."
  @spec no_arguments!(module, [String.t()]) :: :ok
  def no_arguments!(_task, []), do: :ok
  def no_arguments!(task, [first | _]), do: usage!(task, "unexpected argument #{inspect(first)}")

  @doc "Prints what a task does, as Mix's generators do: `* creating .venv`."
  @spec step(String.t(), String.t()) :: :ok
  def step(verb, what), do: Mix.shell().info([:green, "* #{verb} ", :reset, what])

  @doc "Ends a task with exit status 1, after it has printed why."
  @spec fail() :: no_return
  def fail, do: exit({:shutdown, 1})

  @doc "A variable of the environment, or nil if it is unset or empty, as an `ARG` of Docker that is not given."
  @spec env(String.t()) :: String.t() | nil
  def env(name) do
    with "" <- System.get_env(name), do: nil
  end

  @doc "A path and the directories that it is in, from the root on."
  @spec parents(Path.t()) :: [Path.t()]
  def parents(path), do: path |> Path.split() |> Enum.scan(&Path.join(&2, &1))

  @doc "A path as the user would write it."
  @spec shown(Path.t()) :: Path.t()
  def shown(path), do: Path.relative_to_cwd(path)
end
