defmodule Snakepit.Pool.Reloader do
  @moduledoc false
  # Restarts a pool when its Python code has changed (`reload: true`): it polls the files under
  # `paths:`, and waits until they have stayed the same between two polls, so that it never takes
  # a half-written file. Whether the new code can be imported shows when the first worker is
  # replaced.
  use GenServer

  require Logger

  alias Snakepit.Config.Paths
  alias Snakepit.Error.Cause
  alias Snakepit.Pool.{Manager, SourceFiles}

  @period 500

  # `loaded` has the files with which the workers were started, `files` those of the last poll.
  defstruct [:pool, :root, :paths, :loaded, :files]

  def start_link(options), do: GenServer.start_link(__MODULE__, options)

  @impl true
  # The first poll comes before any worker reads the files.
  def init(%{name: pool, adapter_args: args, root: root}) do
    paths = for path <- paths(args[:paths]), {:ok, path} <- [Paths.expand(path, root)], do: path

    if paths == [] do
      Logger.warning(
        "the pool #{inspect(pool)} reloads nothing: its adapter_args have no `paths:`"
      )

      :ignore
    else
      files = SourceFiles.read(paths)

      if map_size(files) == SourceFiles.most(),
        do:
          Logger.warning(
            "the pool #{inspect(pool)} reloads on changes of only #{map_size(files)} Python files; there " <>
              "are more under #{Enum.join(paths, ", ")}"
          )

      read_later()
      {:ok, %__MODULE__{pool: pool, root: root, paths: paths, loaded: files, files: files}}
    end
  end

  @impl true
  def handle_info(:read, state) do
    files = SourceFiles.read(state.paths, state.files)
    steady? = SourceFiles.changed(state.files, files) == []
    changed = if steady?, do: SourceFiles.changed(state.loaded, files), else: []
    state = %{state | files: files}
    state = if changed == [], do: state, else: restart(changed, state)
    read_later()
    {:noreply, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # The next poll sees changes made meanwhile.
  defp restart(changed, state) do
    why = describe(Enum.sort(changed), state.root)

    case Manager.restart(state.pool, why, :infinity) do
      {:error, %{reason: reason} = error} when reason != :pool_stopped ->
        Logger.error(
          "the pool #{inspect(state.pool)} keeps running its old code (#{why}): #{error.message}"
        )

      _done ->
        :ok
    end

    %{state | loaded: state.files}
  end

  defp describe([path], root), do: "#{shown(path, root)} has changed"

  defp describe([path | more], root),
    do: "#{shown(path, root)} has changed, and #{length(more)} more"

  defp shown(path, root), do: path |> Path.relative_to(root) |> Cause.text()

  defp read_later, do: Process.send_after(self(), :read, @period)

  defp paths(paths) when is_list(paths), do: paths
  defp paths(_other), do: []
end
