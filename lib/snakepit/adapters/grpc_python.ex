defmodule Snakepit.Adapters.GRPCPython do
  @moduledoc """
  Runs commands written in Python, over gRPC.

      {Snakepit.Pool,
       name: MyApp.Python,
       adapter_args: [class: "my_app.commands:Commands", paths: ["python"]]}

  `adapter_args`:

    * `:class` - the class of the commands, `"module:Class"`; by default the built-in ones
      (`ping`, `echo`, `compute`, `info`, `ping_stream`, `process_large_dataset`)
    * `:paths` - folders to import from, relative to the current folder

  The pool's `:python` names the executable. By default it is `.venv/bin/python` of the current
  folder where there is one, else `python3`. It needs the packages of `mix snakepit.setup`.
  """
  @behaviour Snakepit.Adapter

  @impl true
  def uses_grpc?, do: true

  @impl true
  def command_line(%{options: options} = worker) do
    with {:ok, adapter_args} <- adapter_args(options.adapter_args),
         {:ok, python} <- python(options.python) do
      {:ok, {python, args(worker) ++ adapter_args, [{"PYTHONPATH", python_path(options.env)}]}}
    end
  end

  defp args(%{options: options} = worker) do
    ["-u", "-m", "snakepit_bridge", "--worker-id", worker.id, "--listen", worker.listen] ++
      ["--max-concurrency", to_string(options.max_concurrency)] ++
      ["--max-message-size", to_string(options.max_message_size)] ++
      ["--shutdown-timeout", to_string(options.shutdown_timeout / 1000)]
  end

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

  defp python(nil) do
    venv = Path.expand(".venv/bin/python")
    if File.exists?(venv), do: {:ok, venv}, else: python("python3")
  end

  defp python(name) do
    case System.find_executable(name) || System.find_executable(Path.expand(name)) do
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
