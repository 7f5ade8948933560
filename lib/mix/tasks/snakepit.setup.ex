defmodule Mix.Tasks.Snakepit.Setup do
  @shortdoc "Creates .venv with the packages of commands, grpcio, and snakepit_bridge for editors"

  @moduledoc """
  Creates a virtual environment with the packages that your commands need, and with grpcio for
  pools with `server: :grpcio`. Workers with the native server need no package; a bare `python3`
  runs them.

      mix snakepit.setup [--python EXECUTABLE] [--venv FOLDER] [--requirements FILE] [--dev]

    * `--python` - the Python for the environment, default `python3` (3.9 or newer)
    * `--venv` - the directory, default `.venv`, which is where pools look
    * `--requirements` - a pip requirements file with further packages: those of your own commands
    * `--dev` - also installs what Snakepit's own tests and checks use

  Editors, mypy and pytest find `snakepit_bridge` in the environment: a file `snakepit_bridge.pth`
  in its `site-packages` names the directory from which workers import it, so that both always
  have the same version. Workers import it from there, whatever else is installed. If the
  environment has another copy, from `pip install`, the task says so.

  Whatever exists already is left alone, so you can run the task before every start. Only an
  environment whose Python is gone is created again.

  For a free-threaded CPython, 3.14 or newer, the task also builds the extension of the native
  server, because the one that `mix compile` builds works only for all others. It installs no
  grpcio there.
  """
  use Mix.Task

  alias Mix.Tasks.Compile

  @worker ~w(grpcio>=1.60 protobuf>=4.25)
  @dev ~w(hatchling attrs grpcio-tools hypothesis ml_dtypes msgspec mypy numpy orjson pandas polars pyarrow) ++
         ~w(pydantic pytest ruff types-grpcio types-protobuf)
  @options [python: :string, venv: :string, requirements: :string, dev: :boolean]

  @impl true
  def run(args) do
    {options, _rest} = OptionParser.parse!(args, strict: @options)
    venv = Path.expand(Keyword.get(options, :venv, ".venv"))
    python = Path.join(venv, "bin/python")
    # Without ensurepip a first attempt leaves an environment without pip.
    pip? = File.exists?(Path.join(venv, "bin/pip"))
    # Its Python was removed, for example by an upgrade: nothing in it can run.
    broken? = match?({:ok, _}, File.lstat(python)) and not File.exists?(python)
    clear = if broken?, do: ["--clear"], else: []

    unless pip? and not broken?,
      do: run!(python!(options[:python]), ["-m", "venv", venv] ++ clear)

    # grpcio would turn on the global lock of a free-threaded Python.
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

    link_package(python)
  end

  @locate "import sysconfig; print(sysconfig.get_path('purelib'))"
  @find "import importlib.util as u; print(u.find_spec('snakepit_bridge').origin)"

  @doc false
  # Makes `python` find the package that workers import.
  def link_package(python) do
    directory = Path.join(Compile.Snakepit.source(), "priv/python")
    link = Path.join(output!(python, @locate), "snakepit_bridge.pth")
    if File.read(link) != {:ok, directory}, do: File.write!(link, directory)
    found = output!(python, @find)

    if Path.dirname(found) != Path.join(directory, "snakepit_bridge") do
      Mix.shell().info(
        "#{python} has its own snakepit_bridge, #{found}: editors and tests find it instead of the one " <>
          "that workers import; to make them agree, run #{python} -m pip uninstall snakepit-bridge"
      )
    end
  end

  # -I isolates it: only the environment itself counts.
  defp output!(python, code) do
    case System.cmd(python, ["-I", "-c", code], stderr_to_stdout: true) do
      {output, 0} -> String.trim(output)
      {output, _status} -> Mix.raise("#{python} could not be run: #{output}")
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
