defmodule Snakepit.Config.Paths do
  @moduledoc false
  # Resolves the paths of a pool's options and of its adapter. Their meaning never depends on the
  # current directory at a later time than the pool's start.

  @typedoc "A path, or one within an application: `{:my_app, \"priv/python\"}`."
  @type t :: Path.t() | {Application.app(), Path.t()}

  @doc "Returns the directory from which relative paths start: that of the Mix project, otherwise the current one."
  @spec root() :: Path.t()
  def root, do: project() || current()

  @doc "Returns the option `:root` as an absolute path; other values are left to the check of the options."
  @spec root(term) :: term
  def root(path) when is_binary(path), do: absolute(path, root())
  def root(other), do: other

  @doc "Returns an absolute path, or the reason why there is none."
  @spec expand(t, Path.t()) :: {:ok, Path.t()} | {:error, String.t()}
  def expand({app, path}, _root) do
    case :code.lib_dir(app) do
      {:error, :bad_name} ->
        {:error,
         "there is no application #{inspect(app)} (#{inspect({app, path})}); is it a dependency?"}

      directory ->
        {:ok, absolute(path, to_string(directory))}
    end
  end

  def expand(path, root), do: {:ok, absolute(path, root)}

  @doc "Like `Path.expand/2`, which raises if the current directory was removed."
  @spec absolute(Path.t(), Path.t()) :: Path.t()
  def absolute("~/" <> path, root), do: absolute(path, System.user_home() || root)

  def absolute(path, root) do
    path
    |> Path.absname(root)
    |> Path.split()
    |> Enum.reduce([], &step/2)
    |> Enum.reverse()
    |> Path.join()
  end

  defp step(".", done), do: done
  defp step("..", ["/"]), do: ["/"]
  defp step("..", [_last | done]), do: done
  defp step(name, done), do: [name | done]

  @doc "Finds an executable, also by name in `PATH`, or returns the reason why there is none."
  @spec find(t, Path.t()) :: {:ok, Path.t()} | {:error, String.t()}
  def find(name, root) do
    with {:ok, path} <- expand(name, root), :ok <- check_text(path) do
      case in_path(name, root) || System.find_executable(path) do
        nil -> {:error, missing(name, path)}
        found -> {:ok, found}
      end
    end
  end

  defp check_text(path) do
    if String.valid?(path), do: :ok, else: {:error, "#{inspect(path)} is not valid UTF-8"}
  end

  defp in_path(name, root) do
    if is_binary(name) and not String.contains?(name, "/") do
      System.get_env("PATH", "")
      |> String.split(":")
      |> Enum.filter(&String.valid?/1)
      |> Enum.find_value(&System.find_executable(Path.join(absolute(&1, root), name)))
    end
  end

  defp missing(name, path) do
    case {File.lstat(path), File.stat(path)} do
      {{:ok, %{type: :symlink}}, {:error, _reason}} ->
        "#{path} is a symbolic link to #{target(path, 40)}, which does not exist"

      {_, {:ok, %{type: :regular}}} ->
        "#{path} is not executable"

      {_, {:ok, %{type: :directory}}} ->
        "#{path} is a directory; expected an executable file"

      _ ->
        if is_tuple(name) or String.contains?(name, "/"),
          do: "#{path} does not exist",
          else: "#{inspect(name)} was found neither in PATH nor as #{path}"
    end
  end

  defp target(path, links) do
    case File.read_link(path) do
      {:ok, next} when links > 0 -> next |> absolute(Path.dirname(path)) |> target(links - 1)
      _ -> path
    end
  end

  defp current do
    case File.cwd() do
      {:ok, path} -> path
      # It was removed.
      {:error, _reason} -> "/"
    end
  end

  # Mix exists only in development, and not everything that runs with it has a project.
  defp project do
    if Code.ensure_loaded?(Mix.Project) do
      file = Mix.Project.project_file()
      if file && File.regular?(file), do: Path.dirname(file)
    end
  catch
    # Mix is not started.
    _kind, _reason -> nil
  end
end
