defmodule Snakepit.Bench.Cost.Beam do
  @moduledoc false
  # Runs a function in a BEAM of its own, in which nothing has happened before, and which can be
  # bound to one CPU together with the processes that it starts.

  @doc "Runs the function. BEAMs that `run/4` starts meanwhile have the code of these modules."
  def with_code(modules, fun) do
    directory = temporary()
    File.mkdir_p!(directory)

    try do
      for {module, code} <- modules, do: File.write!(Path.join(directory, "#{module}.beam"), code)
      Code.append_path(directory)
      fun.()
    after
      Code.delete_path(directory)
      File.rm_rf!(directory)
    end
  end

  @doc "Returns what the function returns. Raises if its BEAM ends before."
  def run(module, function, args, settings \\ []) do
    result = temporary()
    task = Base.encode64(:erlang.term_to_binary({module, function, args, result}))
    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])
    child = "#{inspect(__MODULE__)}.child(hd(System.argv()))"
    command = [System.find_executable("elixir") | paths] ++ ["-e", child, "--", task]

    [program | args] =
      case settings[:cpu] do
        nil -> command
        cpu -> [System.find_executable("taskset"), "-c", "#{cpu}" | command]
      end

    try do
      {output, status} = System.cmd(program, args, stderr_to_stdout: true)
      if status != 0, do: raise("#{function}/#{length(args)} failed:\n#{output}")
      result |> File.read!() |> :erlang.binary_to_term()
    after
      File.rm(result)
    end
  end

  defp temporary,
    do:
      Path.join(System.tmp_dir!(), "bench-#{System.pid()}-#{System.unique_integer([:positive])}")

  @doc false
  def child(task) do
    {module, function, args, result} = task |> Base.decode64!() |> :erlang.binary_to_term()
    Logger.configure(level: :warning)
    {:ok, _} = Application.ensure_all_started(:snakepit)
    File.write!(result, :erlang.term_to_binary(apply(module, function, args)))
    System.halt(0)
  end
end
