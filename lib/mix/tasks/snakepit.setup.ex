defmodule Mix.Tasks.Snakepit.Setup do
  @shortdoc "Creates .venv with the Python packages of the project, and snakepit_bridge for editors"

  @moduledoc """
  Creates a virtual environment, `.venv`, with the Python packages that your commands need, and
  lets editors, mypy and pytest find `snakepit_bridge` in it. Workers use it without further
  options. If your commands need no package, you need no environment: workers run on a bare
  `python3`.

      $ mix snakepit.setup
      $ mix snakepit.setup --python 3.12
      $ mix snakepit.setup --requirements python/requirements.txt

  The packages are those of the first of these files that exists in the current directory:

    * `uv.lock` and `pyproject.toml` - installed with `uv sync`
    * `pyproject.toml` - the `dependencies` of its table `[project]`
    * `requirements.txt`

  [uv](https://docs.astral.sh/uv) is used if it is in `PATH`, otherwise `python -m venv` and pip.
  uv also downloads the Python that `--python` asks for, if it is not installed.

  An environment that exists is never removed, whoever has made it, and packages are installed only
  if one of these files or of those that it includes (`-r`, `-c`) has changed, or a package of the
  environment is gone: you can run the task before every start. Only an environment whose Python is
  gone is created again.

  ## Options

    * `--python` - the Python for the environment: a version, `3.12`, or `3.14t` for a free-threaded
      one, or an executable. Snakepit needs 3.9 or newer
    * `--venv` - the directory of the environment, by default `.venv`, which is where pools look
    * `--requirements` - a requirements file to install instead of the files above; may be repeated
    * `--grpcio` - also installs grpcio and protobuf, which the grpcio server (`server: :grpcio`)
      needs. The native server needs no package
    * `--dev` - also installs these, and what Snakepit's own tests and checks use

  ## The bridge

  A file `snakepit_bridge.pth` in the environment names the directory from which workers import
  `snakepit_bridge`, so that editors and workers always have the same version. If the environment
  has another copy, from `pip install`, the task says so.

  For a free-threaded CPython, 3.14 or newer, the task also builds the extension of the native
  server, because the one that `mix compile` builds works only for all others. It installs no
  grpcio there.
  """
  use Mix.Task

  alias Mix.Snakepit.Venv
  alias Mix.Tasks.Compile

  @grpcio ~w(grpcio>=1.60 protobuf>=4.25)
  @dev ~w(hatchling attrs grpcio-tools hypothesis ml_dtypes msgspec mypy numpy opentelemetry-sdk orjson pandas polars pyarrow) ++
         ~w(pydantic pytest ruff types-grpcio types-protobuf uv)
  @switches [
    python: :string,
    venv: :string,
    requirements: [:string, :keep],
    grpcio: :boolean,
    dev: :boolean
  ]

  @impl true
  def run(args) do
    Mix.Snakepit.run(__MODULE__, args, @switches, fn options, rest ->
      Mix.Snakepit.no_arguments!(__MODULE__, rest)
      options |> Keyword.get(:venv, ".venv") |> Venv.new() |> set_up(options)
    end)
  end

  @doc false
  def set_up(venv, options) do
    version = Venv.ensure!(venv, options[:python])
    free_threaded? = Compile.Snakepit.build_for(Venv.python(venv)) == :free_threaded
    install(venv, packages(options, free_threaded?), options)
    link_package(Venv.python(venv))
    suggest_ignoring(venv)

    Mix.shell().info("#{Mix.Snakepit.shown(venv.path)} is ready: Python #{version}")
  end

  defp packages(options, free_threaded?) do
    grpcio? = options[:grpcio] || options[:dev]

    # It would turn on the global lock.
    if grpcio? && free_threaded?,
      do: Mix.shell().info("grpcio is not installed: it does not support a free-threaded Python")

    if(grpcio? && not free_threaded?, do: @grpcio, else: []) ++
      if(options[:dev], do: @dev, else: [])
  end

  defp install(venv, packages, options) do
    case {Keyword.get_values(options, :requirements), source(venv)} do
      {[], :none} -> install(venv, packages, [], [])
      {[], :lock} -> install_lock(venv, packages)
      {[], {:pyproject, file}} -> install_pyproject(venv, packages, file)
      {[], {:requirements, file}} -> install(venv, packages, [file], ["-r", file])
      {files, _source} -> install(venv, packages, files, Enum.flat_map(files, &["-r", &1]))
    end
  end

  # Where the project lists its packages.
  defp source(venv) do
    project? =
      File.regular?("pyproject.toml") and File.read!("pyproject.toml") =~ ~r/^\[project\]/m

    cond do
      project? and File.regular?("uv.lock") and venv.uv != nil -> :lock
      project? -> {:pyproject, "pyproject.toml"}
      File.regular?("requirements.txt") -> {:requirements, "requirements.txt"}
      true -> :none
    end
  end

  defp install_lock(venv, packages) do
    install(venv, packages, [], [])
    Venv.sync!(venv)
  end

  defp install_pyproject(%{uv: nil} = venv, packages, file) do
    if File.regular?("uv.lock") do
      Mix.shell().info("uv.lock is not used, because uv is not in PATH: pip chooses the versions")
    end

    install(venv, packages ++ Venv.dependencies!(venv, file), [], [])
  end

  defp install_pyproject(venv, packages, file), do: install(venv, packages, [file], ["-r", file])

  # A file in the environment lists what was wanted, and the packages that were there once it was installed. While
  # they are, nothing is left to do: to find that out, pip takes a second and more.
  defp install(venv, packages, files, args) do
    stamp = Path.join(venv.path, ".snakepit")
    wanted = packages ++ Enum.flat_map(files, &lines(&1, []))
    written = with({:ok, text} <- File.read(stamp), do: String.split(text, "\n"))

    unless is_list(written) and wanted -- written == [] and gone(venv, written) == [] do
      what = Enum.join(packages ++ Enum.map(files, &"the packages of #{&1}"), " ")
      if packages ++ args != [], do: Venv.install!(venv, packages ++ args, what)
      File.write!(stamp, Enum.join(wanted ++ Venv.packages(venv), "\n"))
    end

    :ok
  end

  defp gone(venv, written),
    do: Enum.filter(written, &String.ends_with?(&1, ".dist-info")) -- Venv.packages(venv)

  # The lines of a requirements file and of those that it includes. If one cannot be read, the installer says why.
  defp lines(file, including) do
    case File.read(file) do
      {:ok, text} ->
        lines = String.split(text, "\n")
        included = Enum.uniq(Enum.flat_map(lines, &included(&1, file))) -- including
        lines ++ Enum.flat_map(included, &lines(&1, [&1 | including]))

      {:error, reason} ->
        ["#{file}: #{reason}"]
    end
  end

  defp included(line, file) do
    case Regex.run(~r/^\s*(?:-r|-c|--requirement|--constraint)[\s=]*([^\s=]\S*)/, line) do
      [_line, name] -> [Path.expand(name, Path.dirname(file))]
      nil -> []
    end
  end

  @locate "import sysconfig; print(sysconfig.get_path('purelib'))"
  @find "import importlib.util as u; print(u.find_spec('snakepit_bridge').origin)"

  @doc false
  # Makes `python` find the package that workers import.
  def link_package(python) do
    directory = Path.join(Compile.Snakepit.source(), "priv/python")
    link = Path.join(Venv.output!(python, @locate), "snakepit_bridge.pth")

    if File.read(link) != {:ok, directory} do
      Mix.Snakepit.step("linking", "snakepit_bridge for editors and tests")
      File.write!(link, directory)
    end

    found = Venv.output!(python, @find)

    if Path.dirname(found) != Path.join(directory, "snakepit_bridge") do
      Mix.shell().info(
        "#{python} has its own snakepit_bridge, #{found}: editors and tests find it instead of the one " <>
          "that workers import; to make them agree, run #{python} -m pip uninstall snakepit-bridge"
      )
    end
  end

  # Only for an environment within the project.
  defp suggest_ignoring(venv) do
    name = Mix.Snakepit.shown(venv.path)

    if Path.type(name) == :relative and not ignored?(venv, name) do
      Mix.shell().info("git does not ignore #{name}: add the line #{name}/ to .gitignore")
    end
  end

  # uv and newer Pythons write a .gitignore into the environment, which git applies to its files.
  defp ignored?(venv, name) do
    file = Path.join(venv.path, "pyvenv.cfg")
    git = System.find_executable("git")

    case git && System.cmd(git, ["check-ignore", "-q", file], stderr_to_stdout: true) do
      {_, 0} ->
        true

      {_, 1} ->
        false

      # There is no git, or no repository yet.
      _ ->
        not File.exists?(".gitignore") or File.exists?(Path.join(venv.path, ".gitignore")) or
          Enum.any?(
            File.stream!(".gitignore"),
            &(&1 |> String.trim() |> String.trim("/") == name)
          )
    end
  end
end
