defmodule Snakepit.Tensor do
  @moduledoc """
  An array of numbers, which is a numpy array in Python.

      tensor = Snakepit.Tensor.new(<<1.0::float-32-little, 2.0::float-32-little>>, :float32, {2})
      {:ok, %{"result" => %Snakepit.Tensor{shape: {2}}}} = Snakepit.execute("scale", %{by: tensor})

  `:data` are the elements, little-endian and row-major. The dtypes are `:bool` (a byte, 0 or 1),
  `:int8` to `:int64`, `:uint8` to `:uint64`, `:float16`, `:float32` and `:float64`. A numpy array
  that a command returns arrives as one, made contiguous; an argument arrives as a read-only array
  without another copy.
  """

  alias Snakepit.Error

  # Only an application that has Nx calls what needs it.
  @compile {:no_warn_undefined, Nx}

  @sizes %{
    bool: 1,
    int8: 1,
    int16: 2,
    int32: 4,
    int64: 8,
    uint8: 1,
    uint16: 2,
    uint32: 4,
    uint64: 8,
    float16: 2,
    float32: 4,
    float64: 8
  }

  @nx %{
    {:s, 8} => :int8,
    {:s, 16} => :int16,
    {:s, 32} => :int32,
    {:s, 64} => :int64,
    {:u, 8} => :uint8,
    {:u, 16} => :uint16,
    {:u, 32} => :uint32,
    {:u, 64} => :uint64,
    {:f, 16} => :float16,
    {:f, 32} => :float32,
    {:f, 64} => :float64
  }

  @enforce_keys [:data, :dtype, :shape]
  defstruct [:data, :dtype, :shape]

  @type dtype ::
          :bool
          | :int8
          | :int16
          | :int32
          | :int64
          | :uint8
          | :uint16
          | :uint32
          | :uint64
          | :float16
          | :float32
          | :float64

  @type t :: %__MODULE__{data: binary, dtype: dtype, shape: tuple}

  @doc """
  A tensor of the elements in `data`.

      iex> Snakepit.Tensor.new(<<1, 2, 3, 4, 5, 6>>, :uint8, {2, 3}).shape
      {2, 3}

  Raises `Snakepit.Error` if they are not as many as the shape says.
  """
  @spec new(binary, dtype, tuple) :: t
  def new(data, dtype, shape)
      when is_binary(data) and is_map_key(@sizes, dtype) and is_tuple(shape) do
    sides = Tuple.to_list(shape)

    unless Enum.all?(sides, &(is_integer(&1) and &1 >= 0)) and
             Enum.reduce(sides, @sizes[dtype], &*/2) == byte_size(data) do
      message =
        "a tensor of #{inspect(dtype)} and shape #{inspect(shape)} does not have #{byte_size(data)} bytes"

      raise Error, reason: :invalid_args, message: message
    end

    %__MODULE__{data: data, dtype: dtype, shape: shape}
  end

  def new(data, dtype, shape) do
    dtypes = @sizes |> Map.keys() |> Enum.map_join(", ", &inspect/1)

    raise ArgumentError,
          "expected a binary, one of #{dtypes}, and a tuple of sides, got: " <>
            inspect({data, dtype, shape}, limit: 20, printable_limit: 100)
  end

  @doc "The tensor that an `Nx` tensor is. Its types `:bf` and `:c` have no dtype here."
  @spec from_nx(struct) :: t
  def from_nx(%{__struct__: Nx.Tensor} = tensor) do
    type = Nx.type(tensor)

    unless is_map_key(@nx, type) do
      message =
        "an Nx tensor of the type #{inspect(type)} has no dtype; cast it with Nx.as_type/2"

      raise Error, reason: :invalid_args, message: message
    end

    new(Nx.to_binary(tensor), @nx[type], Nx.shape(tensor))
  end

  def from_nx(other), do: raise(ArgumentError, "expected an Nx tensor, got: #{inspect(other)}")

  @doc "The `Nx` tensor that a tensor is. A `:bool` becomes `{:u, 8}`."
  @spec to_nx(t) :: struct
  def to_nx(%__MODULE__{} = tensor) do
    tensor = new(tensor.data, tensor.dtype, tensor.shape)
    type = Enum.find_value(@nx, {:u, 8}, fn {type, dtype} -> dtype == tensor.dtype && type end)
    Nx.reshape(Nx.from_binary(tensor.data, type), tensor.shape)
  end

  def to_nx(other),
    do: raise(ArgumentError, "expected a Snakepit.Tensor, got: #{inspect(other)}")

  defimpl Inspect do
    def inspect(tensor, _options) do
      "#Snakepit.Tensor<#{tensor.dtype} #{Kernel.inspect(tensor.shape)}>"
    end
  end
end
