defmodule Snakepit.Arrow do
  @moduledoc """
  An Arrow table, which becomes a `pyarrow.Table` in Python.

  A command returns one with `snakepit_bridge.arrow(frame)`, or as any frame in a pool with `frames: :arrow`:

      {:ok, %{"result" => %Snakepit.Arrow{} = sales}} =
        Snakepit.execute("sales", %{year: 2026}, pool: MyApp.Python)

      Snakepit.Arrow.to_explorer(sales)
      {:ok, _} = Snakepit.execute("total", %{sales: sales}, pool: MyApp.Python)

  `:data` is a stream in Arrow's IPC format. Types, missing values, dictionaries, nested columns and time zones
  survive, and no value is converted on the way.
  """

  alias Snakepit.Error

  # Only an application that has Explorer calls the functions that need it.
  @compile {:no_warn_undefined, Explorer.DataFrame}

  @enforce_keys [:data]
  defstruct [:data]

  @type t :: %__MODULE__{data: binary}

  @doc """
  Makes a table of an Arrow IPC stream, as other libraries and programs write it too.

  Raises `Snakepit.Error` for anything else. The rest of the stream is checked only when it is read.
  """
  @doc since: "0.1.0"
  @spec new(binary) :: t
  def new(<<0xFFFFFFFF::32, size::little-32, _::binary>> = data) when size > 0,
    do: %__MODULE__{data: data}

  def new(<<"ARROW1", _::binary>>),
    do: invalid("is a file in Arrow's IPC format; write it as a stream")

  def new(data) when is_binary(data), do: invalid("is not a stream in Arrow's IPC format")

  def new(other),
    do: raise(ArgumentError, "expected a binary, got: #{inspect(other, limit: 5)}")

  defp invalid(problem) do
    raise Error, reason: :invalid_args, message: "the binary #{problem}"
  end

  @doc "Converts an `Explorer.DataFrame`. A data frame among the arguments of a call is converted automatically."
  @doc since: "0.1.0"
  @spec from_explorer(struct) :: t
  def from_explorer(%{__struct__: Explorer.DataFrame} = frame),
    do: %__MODULE__{data: Explorer.DataFrame.dump_ipc_stream!(frame)}

  def from_explorer(other) do
    raise ArgumentError, "expected an Explorer.DataFrame, got: #{inspect(other, limit: 5)}"
  end

  @doc "Converts a table to an `Explorer.DataFrame`."
  @doc since: "0.1.0"
  @spec to_explorer(t) :: struct
  def to_explorer(%__MODULE__{data: data}), do: Explorer.DataFrame.load_ipc_stream!(data)

  def to_explorer(other) do
    raise ArgumentError, "expected a Snakepit.Arrow, got: #{inspect(other, limit: 5)}"
  end

  defimpl Inspect do
    def inspect(%{data: data}, _options) when is_binary(data),
      do: "#Snakepit.Arrow<#{byte_size(data)} bytes>"

    def inspect(arrow, options), do: Inspect.Any.inspect(arrow, options)
  end
end
