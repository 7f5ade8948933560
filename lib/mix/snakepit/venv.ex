defmodule Mix.Snakepit.Venv do
  @moduledoc false
  # Virtual environments: creates them and installs packages, with uv if it is installed, otherwise
  # with `python -m venv` and pip. No function removes an environment whose Python runs.

  import Mix.Snakepit, only: [shown: 1, step: 2]

  alias Snakepit.Error.Cause

  @version "import sys, sysconfig as c; " <>
             "print('.'.join(map(str, sys.version_info[:3])) + ('t' if c.get_config_var('Py_GIL_DISABLED') else ''))"

  @enforce_keys [:path]
  defstruct [:path, :uv]

  @type t :: %__MODULE__{path: Path.t(), uv: Path.t() | nil}

  @doc "The environment at a path, which need not exist, to be managed with the given `uv`, or without."
  @spec new(Path.t(), Path.t() | nil) :: t
  def new(path, uv \\ System.find_executable("uv")),
    do: %__MODULE__{path: Path.expand(path), uv: uv}

  @doc "The Python of an environment."
  @spec python(t) :: Path.t()
  def python(venv), do: Path.join(venv.path, "bin/python")

  @doc """
  Creates the environment unless it exists. `wanted` is a version, `"3.12"`, an executable, or nil.
  An environment that exists is left alone, and must have the wanted Python. Returns its version.
  """
  @spec ensure!(t, String.t() | nil) :: String.t()
  def ensure!(venv, wanted) do
    state = state(venv)

    case state do
      :usable -> :ok
      :none -> create!(venv, wanted, [])
      :broken -> create!(venv, wanted, ["--clear"])
      :foreign -> Mix.raise("#{shown(venv.path)} exists and is not a virtual environment")
    end

    version = running!(venv)
    if problem = mismatch(venv, version), do: unfit!(problem)
    if state == :usable and wanted != nil, do: check_wanted!(venv, version, wanted)
    check_new_enough!(venv, version)
    version
  end

  @doc """
  `:usable`; `:none`; `:broken` if its Python was removed, for example by an upgrade, so that nothing
  in it can run; or `:foreign`, a directory with something else.
  """
  @spec state(t) :: :usable | :none | :broken | :foreign
  def state(venv) do
    python = python(venv)
    marked? = File.exists?(Path.join(venv.path, "pyvenv.cfg"))

    cond do
      File.exists?(python) -> :usable
      match?({:ok, _}, File.lstat(python)) or marked? -> :broken
      File.ls(venv.path) in [{:ok, []}, {:error, :enoent}] -> :none
      true -> :foreign
    end
  end

  defp create!(%{uv: nil} = venv, wanted, clear) do
    python = find!(venv, wanted)
    step("creating", "#{shown(venv.path)} with #{python}")

    # Debian's Python has none without python3-venv. It is missed only when packages are installed.
    pip = if module?(python, "ensurepip"), do: [], else: ["--without-pip"]

    case stream(python, ["-m", "venv", venv.path] ++ pip ++ clear) do
      0 ->
        :ok

      status ->
        Mix.raise(
          "#{python} -m venv ended with status #{status}; on Debian it needs the package python3-venv; " <>
            "uv (https://docs.astral.sh/uv) needs nothing"
        )
    end
  end

  defp create!(venv, wanted, clear) do
    step("creating", "#{shown(venv.path)} with uv")
    python = if wanted, do: ["--python", wanted], else: []
    run!(venv.uv, ["venv", "--no-project"] ++ python ++ clear ++ [venv.path])
  end

  defp running!(venv) do
    case evaluate(python(venv), @version, []) do
      {:ok, output} -> last_line(output)
      {:error, problem} -> unfit!(problem)
    end
  end

  @doc """
  Says in words that an environment was made for another Python than the one that runs it, whose version is
  given, or returns nil. Its packages are in `lib/python3.11`, for example, where no other Python looks.
  """
  @spec mismatch(t, String.t()) :: String.t() | nil
  def mismatch(venv, version) do
    # Environments of conda have no such file.
    with {:ok, text} <- File.read(Path.join(venv.path, "pyvenv.cfg")),
         [_line, made_for] <- Regex.run(~r/^version(?:_info)? *= *(\d+\.\d+)/m, text),
         false <- String.starts_with?(version <> ".", made_for <> ".") do
      "#{shown(venv.path)} was made for Python #{made_for} and is run by #{version}, which does not find its packages"
    else
      _ -> nil
    end
  end

  defp check_wanted!(venv, version, wanted) do
    wish = if parse(wanted), do: wanted, else: version!(find!(venv, wanted))

    unless wanted?(version, wish) do
      unfit!(
        "#{shown(venv.path)} has Python #{version}, not the Python of --python #{wanted}",
        "; to keep it, leave --python out"
      )
    end
  end

  defp check_new_enough!(venv, version) do
    [major, minor | _] = version |> String.split(".") |> Enum.map(&elem(Integer.parse(&1), 0))

    if {major, minor} < {3, 9} do
      unfit!(
        "#{shown(venv.path)} has Python #{version}, and Snakepit needs 3.9 or newer",
        "; --python 3.12 chooses the Python"
      )
    end
  end

  @spec unfit!(String.t(), String.t()) :: no_return
  defp unfit!(problem, more \\ "") do
    Mix.raise(
      "#{problem}: delete the directory of the environment, and mix snakepit.setup creates it again, " <>
        "or name another one with --venv#{more}"
    )
  end

  @doc """
  Whether a version, `3.14.0t` for example, is the wanted one: `3.14t`, or `python3.14t`. A Python with
  the global lock and one without are never the same.
  """
  @spec wanted?(String.t(), String.t()) :: boolean
  def wanted?(version, wanted) do
    [numbers, threads] = parse(version)
    [wanted_numbers, wanted_threads] = parse(wanted)

    threads == wanted_threads and String.starts_with?(numbers <> ".", wanted_numbers <> ".")
  end

  # Splits a version, or the usual name of an executable with it, into its numbers and the `t`. Which Python
  # `python3` is depends on PATH.
  defp parse(wanted) do
    ~r/\A(?:python(?=3\.))?(3(?:\.\d+)*)(t?)\z/
    |> Regex.run(wanted, capture: :all_but_first)
  end

  defp find!(venv, nil), do: find!(venv, "python3")

  defp find!(venv, wanted) do
    version? = parse(wanted) != nil
    name = if version?, do: "python" <> String.trim_leading(wanted, "python"), else: wanted
    System.find_executable(name) || not_found!(venv, name)
  end

  defp not_found!(%{uv: nil}, name) do
    Mix.raise(
      "#{name} was not found: install Python 3.9 or newer, name another one with --python, or install uv " <>
        "(https://docs.astral.sh/uv), which downloads the version that --python asks for"
    )
  end

  defp not_found!(_venv, name) do
    Mix.raise(
      "#{name} was not found: --python takes a version, 3.12 for example, or an executable that exists"
    )
  end

  @doc "The version of a Python, with a `t` at the end if it is free-threaded."
  @spec version!(Path.t()) :: String.t()
  def version!(python), do: python |> output!(@version) |> last_line()

  @doc "Installs packages: `args` are arguments of `pip install`."
  @spec install!(t, [String.t()], String.t()) :: :ok
  def install!(%{uv: nil} = venv, args, what) do
    ensure_pip!(venv)
    step("installing", "#{what} with pip")

    # Nobody answers if it asks, for the password of an index for example: it would wait forever.
    pip = ~w(-m pip install --no-input --disable-pip-version-check --progress-bar off)
    run!(python(venv), pip ++ args)
  end

  def install!(venv, args, what) do
    step("installing", "#{what} with uv")
    run!(venv.uv, ["pip", "install", "--python", python(venv)] ++ args)
  end

  # uv makes environments without pip, and so does Debian's Python without python3-venv.
  defp ensure_pip!(venv) do
    python = python(venv)

    unless module?(python, "pip") do
      step("installing", "pip, which #{shown(venv.path)} does not have")

      if stream(python, ["-m", "ensurepip"]) != 0 do
        Mix.raise(
          "#{shown(venv.path)} has no pip, and #{python} -m ensurepip cannot install it: install uv " <>
            "(https://docs.astral.sh/uv), or on Debian the package python3-venv"
        )
      end
    end
  end

  defp module?(python, name),
    do: match?({_, 0}, System.cmd(python, ["-I", "-c", "import #{name}"], stderr_to_stdout: true))

  @doc "The packages that an environment has, with their versions: `demo_package-1.0.dist-info`."
  @spec packages(t) :: [String.t()]
  def packages(venv) do
    venv.path
    |> Path.join("lib/python*/site-packages/*.dist-info")
    |> Path.wildcard()
    |> Enum.map(&Path.basename/1)
  end

  @doc "Installs what `uv.lock` lists. What else the environment has is left alone."
  @spec sync!(t) :: :ok
  def sync!(venv) do
    step("installing", "the packages of uv.lock with uv")
    # With another Python, uv would remove the environment and create it again.
    args = ["sync", "--inexact", "--python", python(venv)]
    run!(venv.uv, args, [{"UV_PROJECT_ENVIRONMENT", venv.path}, {"VIRTUAL_ENV", nil}])
  end

  @dependencies """
  import sys
  try:
      import tomllib
  except ImportError:
      from pip._vendor import tomli as tomllib
  with open(sys.argv[1], "rb") as file:
      print("\\n".join(tomllib.load(file)["project"].get("dependencies", [])))
  """

  @doc "The dependencies that a `pyproject.toml` lists, for pip, which cannot install only these."
  @spec dependencies!(t, Path.t()) :: [String.t()]
  def dependencies!(venv, pyproject) do
    ensure_pip!(venv)
    venv |> python() |> output!(@dependencies, [pyproject]) |> String.split("\n", trim: true)
  end

  @doc "The output of Python code. It runs isolated (`-I`): only the environment itself counts."
  @spec output!(Path.t(), String.t(), [String.t()]) :: String.t()
  def output!(python, code, args \\ []) do
    case evaluate(python, code, args) do
      {:ok, output} -> output
      {:error, problem} -> Mix.raise(problem)
    end
  end

  defp evaluate(python, code, args) do
    case System.cmd(python, ["-I", "-c", code | args], stderr_to_stdout: true) do
      {output, 0} ->
        {:ok, String.trim(output)}

      {output, status} ->
        {:error, "#{python} could not be run (status #{status}): #{String.trim(output)}"}
    end
  rescue
    # It cannot be started: it is no program, or not for this machine.
    error in [ErlangError, SystemLimitError] ->
      {:error, "#{python} could not be run: #{Cause.not_started(error)}"}
  end

  @doc "The answer of a Python that may have warned before, of a broken `.pth` file for example."
  @spec last_line(String.t()) :: String.t()
  def last_line(output), do: output |> String.split("\n") |> List.last()

  defp run!(executable, args, env \\ []) do
    case stream(executable, args, env) do
      0 -> :ok
      status -> Mix.raise("#{executable} #{Enum.join(args, " ")} ended with status #{status}")
    end
  end

  # Shows the output while the program runs.
  defp stream(executable, args, env \\ []) do
    options = [into: IO.stream(:stdio, :line), stderr_to_stdout: true, env: env]
    {_output, status} = System.cmd(executable, args, options)
    status
  end
end
