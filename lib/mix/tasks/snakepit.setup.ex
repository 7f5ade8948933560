defmodule Mix.Tasks.Snakepit.Setup do
  @shortdoc "Makes .venv with the packages of commands, and grpcio"

  @moduledoc """
  Makes a virtual environment with the packages that your commands need, and with grpcio for pools with
  `server: :grpcio`. Workers with the native server need no package, and a bare `python3` serves them.

      mix snakepit.setup [--python EXECUTABLE] [--venv FOLDER] [--requirements FILE] [--dev]

    * `--python` - the Python to make it with, default `python3` (3.9 or newer)
    * `--venv` - where, default `.venv`, which is where pools look
    * `--requirements` - a file of further packages, as pip reads it: those of your own commands
    * `--dev` - also what Snakepit's own tests and checks use

  What is there already is left alone, so that it can run before every start. Only an environment whose
  Python is gone is made anew.

  For a free-threaded CPython, 3.14 or newer, it also builds the extension that the native server is:
  the one that `mix compile` makes serves all others. It installs no grpcio there.
  """
  use Mix.Task

  alias Mix.Tasks.Compile

  @worker ~w(grpcio>=1.60 protobuf>=4.25)
  @dev ~w(attrs grpcio-tools hypothesis ml_dtypes msgspec mypy numpy orjson pandas polars pyarrow) ++
         ~w(pydantic pytest ruff types-grpcio types-protobuf)
  @options [python: :string, venv: :string, requirements: :string, dev: :boolean]

  @impl true
  def run(args) do
    {options, _rest} = OptionParser.parse!(args, strict: @options)
    venv = Path.expand(Keyword.get(options, :venv, ".venv"))
    python = Path.join(venv, "bin/python")
    # Without ensurepip a first try leaves an environment that has no pip.
    pip? = File.exists?(Path.join(venv, "bin/pip"))
    # Its Python was removed, by an upgrade say: nothing in it can run.
    broken? = match?({:ok, _}, File.lstat(python)) and not File.exists?(python)
    clear = if broken?, do: ["--clear"], else: []

    unless pip? and not broken?,
      do: run!(python!(options[:python]), ["-m", "venv", venv] ++ clear)

    # grpcio would turn the global lock of a free-threaded Python on.
    worker = if Compile.Snakepit.build_for(python) == :free_threaded, do: [], else: @worker
    packages = if options[:dev], do: worker ++ @dev, else: worker
    {lines, pip_args} = requirements(options[:requirements])
    stamp = Path.join(venv, ".snakepit")
    wanted = packages ++ lines

    unless up_to_date?(stamp, wanted) do
      pip_args = packages ++ pip_args
      if pip_args != [], do: run!(python, ["-m", "pip", "install", "--quiet"] ++ pip_args)
      File.write!(stamp, Enum.join(wanted, "\n"))
    end
  end

  defp requirements(nil), do: {[], []}
  defp requirements(file), do: {file |> File.read!() |> String.split("\n"), ["-r", file]}

  defp up_to_date?(stamp, wanted) do
    case File.read(stamp) do
      {:ok, installed} -> wanted -- String.split(installed, "\n") == []
      {:error, _} -> false
    end
  end

  defp python!(name) do
    name = name || "python3"

    System.find_executable(name) ||
      Mix.raise("#{name} was not found: install Python 3.9 or newer, or pass --python")
  end

  defp run!(executable, args) do
    case System.cmd(executable, args, into: IO.stream(:stdio, :line), stderr_to_stdout: true) do
      {_output, 0} ->
        :ok

      {_, status} ->
        Mix.raise("#{executable} #{Enum.join(args, " ")} ended with status #{status}")
    end
  end
end
