defmodule Mix.Tasks.Compile.Snakepit do
  @moduledoc false
  # Builds the NIF, the launcher of workers and the Python extension with cargo, and puts them and
  # the Python package under priv/, where a release looks for them. Runs after the Elixir
  # compiler, because that makes this module available.
  use Mix.Task.Compiler

  # The extension goes into the package, where Python finds it wherever the package is imported
  # from.
  @libraries [
    {"snakepit_nif", "priv/native/snakepit_nif.so"},
    {"snakepit_launcher", "priv/native/snakepit_launcher"},
    {"snakepit_python", "python/snakepit_bridge/_native.abi3.so"}
  ]
  @package "priv/python/snakepit_bridge"

  @impl true
  def run(_args) do
    done = [build(@libraries, target(), [], []), copy_package()]
    # priv/ may not have existed when the build directory was linked to it.
    Mix.Project.build_structure()
    {if(:ok in done, do: :ok, else: :noop), []}
  end

  @impl true
  def clean do
    for library <- ["priv/native", "priv/python" | files("python/snakepit_bridge/_native*.so")] do
      File.rm_rf!(library)
    end
  end

  @free_threaded "import sysconfig; name = sysconfig.get_config_var; " <>
                   "print(name('EXT_SUFFIX') if name('Py_GIL_DISABLED') else '')"

  # A free-threaded `python` cannot load the extension for all others: this builds one for it,
  # too.
  def build_for(python) do
    {output, 0} = System.cmd(python, ["-c", @free_threaded])
    suffix = String.trim(output)
    if suffix != "", do: File.cd!(source(), fn -> build_free_threaded(python, suffix) end)
    if suffix == "", do: :any, else: :free_threaded
  end

  # Snakepit's own directory.
  def source, do: Map.get(Mix.Project.deps_paths(), :snakepit, File.cwd!())

  defp build_free_threaded(python, suffix) do
    # In a separate directory: in a shared one, each of the two builds would undo the other.
    target = Path.join(target(), "free-threaded")
    libraries = [{"snakepit_python", "python/snakepit_bridge/_native" <> suffix}]
    build(libraries, target, ["--no-default-features"], [{"PYO3_PYTHON", python}])
    copy_package()
  end

  defp target, do: System.get_env("CARGO_TARGET_DIR", "target")

  defp build(libraries, target, args, env) do
    sources =
      files("{native,proto}/**/*.{rs,toml,proto}") ++
        ["Cargo.toml", "Cargo.lock", ".cargo/config.toml"]

    if Mix.Utils.stale?(sources, Enum.map(libraries, &elem(&1, 1))) do
      # Files edited while cargo runs must count as newer than the libraries.
      started = System.os_time(:second)
      packages = Enum.flat_map(libraries, fn {crate, _library} -> ["--package", crate] end)
      cargo!(["--target-dir", target] ++ packages ++ args, env)
      for {crate, library} <- libraries, do: put(built(crate, target), library, started)
      :ok
    else
      :noop
    end
  end

  # A running system may have the old file mapped: replace it, never write into it.
  defp put(built, library, time) do
    File.mkdir_p!(Path.dirname(library))
    File.cp!(built, library <> ".new")
    File.touch!(library <> ".new", time)
    File.rename!(library <> ".new", library)
  end

  defp cargo!(args, env) do
    cargo =
      System.find_executable("cargo") ||
        Mix.raise("cargo was not found: install Rust 1.91 or newer (https://rustup.rs)")

    args = ~w(build --release --locked) ++ args
    options = [into: IO.stream(:stdio, :line), stderr_to_stdout: true, env: env]

    case System.cmd(cargo, args, options) do
      {_output, 0} -> :ok
      {_output, status} -> Mix.raise("cargo #{Enum.join(args, " ")} ended with status #{status}")
    end
  end

  defp built("snakepit_launcher", target), do: Path.join(target, "release/snakepit_launcher")

  defp built(crate, target) do
    extension = if match?({:unix, :darwin}, :os.type()), do: "dylib", else: "so"
    Path.join(target, "release/lib#{crate}.#{extension}")
  end

  defp copy_package do
    sources = files("python/snakepit_bridge/**/*.{py,pyi,typed,so}")

    if Mix.Utils.stale?(sources, [@package]) or stray?(sources) do
      File.rm_rf!(@package)

      for source <- sources do
        target = Path.join("priv", source)
        File.mkdir_p!(Path.dirname(target))
        File.cp!(source, target)
      end

      File.touch!(@package)
      :ok
    else
      :noop
    end
  end

  # A module that was deleted must not stay in priv/.
  defp stray?(sources) do
    files(@package <> "/**/*.{py,pyi,so}") -- Enum.map(sources, &Path.join("priv", &1)) != []
  end

  defp files(pattern), do: Path.wildcard(pattern)
end
