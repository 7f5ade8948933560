defmodule Snakepit.Adapters.Python do
  @moduledoc false
  # The common part of the adapters for Python commands, which differ only in the transport.

  alias Snakepit.Codec
  alias Snakepit.Config
  alias Snakepit.Config.Paths

  # In milliseconds.
  @day 86_400_000

  @doc "The Python of the `.venv` in `root` if there is one, otherwise `python3`."
  def executable(root \\ Paths.root()) do
    venv = Path.join(root, ".venv/bin/python")
    # A broken link counts as well: it is an error, not a reason to use another Python.
    if match?({:ok, _}, File.lstat(venv)), do: venv, else: "python3"
  end

  @doc "See `c:Snakepit.Adapter.validate_options/1`."
  def validate_options(options) do
    with {:ok, _args} <- adapter_args(options.adapter_args, options.root),
         {:ok, _input} <- init(options.adapter_args),
         {:ok, _path} <- Paths.expand(options.python || "", options.root),
         do: :ok
  end

  def command_line(%{options: %{root: root} = options} = worker, transport) do
    with :ok <- check_root(root),
         {:ok, adapter_args} <- adapter_args(options.adapter_args, root),
         {:ok, input} <- init(options.adapter_args),
         {:ok, python} <- find(options.python || executable(root), root) do
      args = args(worker) ++ transport ++ adapter_args
      args = if input, do: args ++ ["--init-from-stdin"], else: args
      {:ok, {python, args, [{"PYTHONPATH", python_path(options.env)}], input}}
    end
  end

  # Python imports from the workers' current directory before all others, PYTHONPATH included, but
  # from a package without __init__.py only after them.
  defp check_root(root) do
    ["snakepit_bridge/__init__.py", "snakepit_bridge.py"]
    |> Enum.map(&Path.join(root, &1))
    |> Enum.find(:ok, &File.regular?/1)
    |> case do
      :ok ->
        :ok

      path ->
        {:error,
         "#{path} would be imported in place of Snakepit's own package, which may be of another version: " <>
           "rename it, or move it out of the pool's :root"}
    end
  end

  defp args(worker) do
    options = with_sessions_of_waiting_calls(worker.options)

    flags =
      Enum.flat_map(Config.flags(), fn {option, type} ->
        name = "--" <> String.replace(to_string(option), "_", "-")
        flag(name, type, Map.fetch!(options, option))
      end)

    ["-u", "-m", "snakepit_bridge", "--worker-id", worker.id] ++ flags
  end

  # The pool ends its sessions itself, also in the worker. The worker does not know of calls that wait: it takes
  # their sessions for unused, and must not end them. No call waits for a day.
  defp with_sessions_of_waiting_calls(options) do
    %{max_sessions: sessions, max_queue: queue, max_concurrency: running} = options
    ttl = if options.session_ttl == :infinity, do: :infinity, else: options.session_ttl + @day
    %{options | max_sessions: sessions + queue + running, session_ttl: ttl}
  end

  defp flag(_name, _type, value) when value in [nil, false], do: []
  defp flag(name, _type, true), do: [name]
  defp flag(name, type, value) when type in [:timeout, :millis], do: [name, seconds(value)]
  defp flag(name, _type, value), do: [name, to_string(value)]

  defp seconds(:infinity), do: "inf"
  defp seconds(millis), do: to_string(millis / 1000)

  defp adapter_args(args, root) do
    Enum.reduce_while(args, {:ok, []}, fn arg, {:ok, done} ->
      case adapter_arg(arg, root) do
        {:ok, args} -> {:cont, {:ok, done ++ args}}
        error -> {:halt, error}
      end
    end)
  end

  defp adapter_arg({:class, class}, _root) when is_binary(class), do: {:ok, ["--adapter", class]}

  defp adapter_arg({:paths, paths} = arg, root) when is_list(paths) do
    Enum.reduce_while(paths, {:ok, []}, fn path, {:ok, done} ->
      case path?(path) && Paths.expand(path, root) do
        {:ok, path} -> {:cont, {:ok, done ++ ["--import-path", path]}}
        false -> {:halt, wrong(arg)}
        error -> {:halt, error}
      end
    end)
  end

  # They are passed in another way, because everyone can see a command line.
  defp adapter_arg({:init, _init}, _root), do: {:ok, []}
  defp adapter_arg(other, _root), do: wrong(other)

  # Encodes the keyword arguments of the class as a message, or returns nil. No error contains
  # their values.
  defp init(args) do
    case {Keyword.fetch(args, :init), Keyword.fetch(args, :class)} do
      {:error, _class} ->
        {:ok, nil}

      {{:ok, _init}, :error} ->
        {:error, "adapter_args has `init:`, but no `class:` to pass it to"}

      {{:ok, init}, _class} ->
        if arguments?(init), do: encode(init), else: wrong_init()
    end
  end

  defp arguments?(init) when is_map(init) and not is_struct(init),
    do: Enum.all?(init, fn {name, _} -> is_atom(name) or is_binary(name) end)

  defp arguments?(init), do: Keyword.keyword?(init)

  defp wrong_init do
    {:error,
     "adapter_args takes init: %{name: value}, the keyword arguments of the class: a map with atom or string " <>
       "keys, or a keyword list"}
  end

  defp encode(init) do
    with {:error, error} <- Codec.encode_extended(%{init: Map.new(init)}),
         do: {:error, "adapter_args: #{String.trim_leading(error.message, ".")}"}
  end

  defp path?({app, path}), do: is_atom(app) and is_binary(path)
  defp path?(path), do: is_binary(path)

  defp wrong({key, _value} = arg) do
    # The value of another key may be a secret.
    got = if key in [:class, :paths], do: inspect(arg), else: "the key #{inspect(key)}"

    {:error,
     "adapter_args takes class: \"module:Class\", paths: [directory, ...], each a string or " <>
       "{:my_app, \"priv/python\"}, and init: %{name: value}, got: #{got}"}
  end

  defp find(name, root) do
    with {:error, why} <- Paths.find(name, root) do
      {:error,
       "there is no Python to run: #{why}; install Python 3.9 or newer, make .venv with `mix snakepit.setup`, " <>
         "or set the option :python"}
    end
  end

  defp python_path(env) do
    given = Map.get_lazy(env, "PYTHONPATH", fn -> System.get_env("PYTHONPATH") end)
    ours = Application.app_dir(:snakepit, "priv/python")
    # An empty entry would mean the current directory.
    if given in [nil, ""], do: ours, else: ours <> ":" <> given
  end
end
