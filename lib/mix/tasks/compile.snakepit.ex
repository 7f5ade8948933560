defmodule Mix.Tasks.Compile.Snakepit do
  @moduledoc false
  # Puts the native libraries and the Python package where a release looks for them: under priv/.
  # Runs after the Elixir compiler, because that makes this module available.
  use Mix.Task.Compiler

  alias Mix.Snakepit.{Files, Libraries, Venv}

  @package "python/snakepit_bridge"
  @copy "priv/python/snakepit_bridge"

  @impl true
  def run(args) do
    installed = Libraries.install!("--force" in args)
    copied = copy_package()
    # priv/ may not have existed when the build directory was linked to it.
    Mix.Project.build_structure()
    {if(installed || copied, do: :ok, else: :noop), []}
  end

  @impl true
  def clean do
    Libraries.clean!()
    File.rm_rf!("priv/python")
  end

  @free_threaded "import sysconfig; name = sysconfig.get_config_var; " <>
                   "print(name('EXT_SUFFIX') if name('Py_GIL_DISABLED') else '')"

  # A free-threaded `python` cannot load the extension for all others: this builds one for it, too.
  def build_for(python) do
    case python |> Venv.output!(@free_threaded) |> Venv.last_line() do
      "" ->
        :any

      suffix ->
        # That of the user's project, which may be relative to its directory.
        deps_path = Mix.Project.deps_path()

        File.cd!(source(), fn ->
          Libraries.install_free_threaded!(python, suffix, deps_path)
          copy_package()
        end)

        :free_threaded
    end
  end

  # Snakepit's own directory.
  def source, do: Map.get(Mix.Project.deps_paths(), :snakepit, File.cwd!())

  defp copy_package, do: Files.mirror!(@package, @copy, "**/*.{py,pyi,typed,so}")
end
