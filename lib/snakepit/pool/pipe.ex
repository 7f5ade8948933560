defmodule Snakepit.Pool.Pipe do
  @moduledoc false
  # A pipe between the BEAM and a worker's process, which opens its end by the path.

  alias Snakepit.Error.Cause

  @doc """
  Opens one with a NIF that takes the path of a named pipe, or nil for an anonymous pipe of the
  BEAM. The NIF returns `{:ok, pipe, path}`, or `:named` if other processes cannot open the
  anonymous pipe.
  """
  @spec open((Path.t() | nil -> {:ok, reference, Path.t()} | :named | {:error, String.t()})) ::
          {:ok, reference, Path.t()} | {:error, String.t()}
  def open(open) do
    with :named <- open.(nil) do
      case System.tmp_dir() do
        nil ->
          {:error, "no temporary directory is writable; set the environment variable TMPDIR"}

        directory ->
          random = Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
          open_named(open, Path.join(directory, "snakepit-#{random}.pipe"))
      end
    end
  end

  @doc "Opens one with each of the NIFs, or none. Returns the pipes with their paths."
  def open_all([]), do: {:ok, []}

  def open_all([open | others]) do
    with {:ok, pipe, path} <- open(open) do
      case open_all(others) do
        {:ok, opened} ->
          {:ok, [{pipe, path} | opened]}

        {:error, message} ->
          opened(path)
          {:error, message}
      end
    end
  end

  @doc "Creates a named pipe, and opens it."
  def open_named(open, path) do
    with :ok <- create(path), {:error, message} <- open.(path) do
      opened(path)
      {:error, message}
    end
  end

  defp create(path) do
    case System.cmd("mkfifo", ["-m", "600", path], stderr_to_stdout: true) do
      {_, 0} -> :ok
      {message, _status} -> {:error, message}
    end
  rescue
    error in [ErlangError, SystemLimitError] ->
      {:error, "mkfifo cannot be run: #{Cause.not_started(error)}"}
  end

  @doc "The worker has opened it, or never will: removes the path."
  @spec opened(Path.t()) :: :ok
  def opened("/proc/" <> _), do: :ok

  def opened(path) do
    _ = File.rm(path)
    :ok
  end
end
