defmodule Snakepit.Adapters.Python do
  @moduledoc false
  # What the adapters for commands in Python share: only the transport tells them apart.

  alias Snakepit.Adapter

  @doc "The Python of the current folder's `.venv` where there is one, else `python3`."
  def executable do
    venv = Path.expand(".venv/bin/python")
    if File.exists?(venv), do: venv, else: "python3"
  end

  def command_line(%{options: options} = worker, transport) do
    with {:ok, adapter_args} <- adapter_args(options.adapter_args),
         {:ok, python} <- find(options.python || executable()) do
      args = args(worker) ++ transport ++ adapter_args
      {:ok, {python, args, [{"PYTHONPATH", python_path(options.env)}]}}
    end
  end

  defp args(%{options: options} = worker) do
    ["-u", "-m", "snakepit_bridge", "--worker-id", worker.id] ++
      ["--max-concurrency", to_string(options.max_concurrency)] ++
      ["--max-message-size", to_string(options.max_message_size)] ++
      ["--max-sessions", to_string(options.max_sessions)] ++
      ["--session-ttl", seconds(options.session_ttl)] ++
      ["--unencodable", to_string(options.unencodable)] ++
      ["--log-level", to_string(options.log_level)] ++
      ["--shutdown-timeout", seconds(options.shutdown_timeout)] ++
      ["--kill-grace", seconds(options.kill_grace)]
  end

  defp seconds(:infinity), do: "inf"
  defp seconds(millis), do: to_string(millis / 1000)

  defp adapter_args(args) do
    Enum.reduce_while(args, {:ok, []}, fn
      {:class, class}, {:ok, done} when is_binary(class) ->
        {:cont, {:ok, done ++ ["--adapter", class]}}

      {:paths, paths}, {:ok, done} when is_list(paths) ->
        {:cont, {:ok, done ++ Enum.flat_map(paths, &["--import-path", Path.expand(&1)])}}

      other, _done ->
        {:halt,
         {:error,
          "adapter_args takes class: \"module:Class\" and paths: [folder], got: #{inspect(other)}"}}
    end)
  end

  defp find(name) do
    case Adapter.find(name) do
      nil ->
        {:error,
         "the Python executable #{inspect(name)} was not found; install Python 3.9 or newer, or set the option :python"}

      path ->
        {:ok, path}
    end
  end

  defp python_path(env) do
    given = Map.new(env)["PYTHONPATH"] || System.get_env("PYTHONPATH")
    ours = Application.app_dir(:snakepit, "priv/python")
    Enum.join([ours | List.wrap(given)], ":")
  end
end
