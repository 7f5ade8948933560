defmodule Snakepit.Tensor do
  @moduledoc """
  An array of numbers, which becomes a numpy array in Python.

      tensor = Snakepit.Tensor.from_list([1.0, 2.0], :float32)
      {:ok, %{"result" => %Snakepit.Tensor{shape: {2}}}} =
        Snakepit.execute("double", %{numbers: tensor}, pool: MyApp.Python)

  `:data` holds the elements, little-endian and row-major. The dtypes are `:bool` (a byte, 0 or 1),
  `:int8` to `:int64`, `:uint8` to `:uint64`, `:float16`, `:float32`, `:float64`, `:bfloat16`,
  `:float8_e4m3fn`, `:float8_e5m2`, `:complex64` and `:complex128` (two floats, the real part first). A
  numpy array that a command returns arrives as a tensor, made contiguous; an argument arrives in Python as a
  read-only array, without another copy.
  """

  alias Snakepit.Error
  alias Snakepit.Tensor.Elements

  # Only an application that has Nx calls the functions that need it.
  @compile {:no_warn_undefined, Nx}

  @sizes Elements.sizes()

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
    {:f, 64} => :float64,
    {:bf, 16} => :bfloat16,
    {:f8_e4m3fn, 8} => :float8_e4m3fn,
    {:f, 8} => :float8_e5m2,
    {:c, 64} => :complex64,
    {:c, 128} => :complex128
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
          | :bfloat16
          | :float8_e4m3fn
          | :float8_e5m2
          | :complex64
          | :complex128

  @typedoc """
  An element as a term: a boolean for `:bool`, a pair `{real, imaginary}` for a complex dtype, a number for all
  others. `:nan`, `:infinity` and `:neg_infinity` represent the floats that Erlang lacks.
  """
  @type element ::
          boolean | number | :nan | :infinity | :neg_infinity | {element, element}

  @type t :: %__MODULE__{data: binary, dtype: dtype, shape: tuple}

  @doc """
  Makes a tensor of the elements in `data`.

      iex> Snakepit.Tensor.new(<<1, 2, 3, 4, 5, 6>>, :uint8, {2, 3}).shape
      {2, 3}

  Raises `Snakepit.Error` if their number does not match the shape.
  """
  @doc since: "0.1.0"
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

  def new(data, dtype, shape) when is_binary(data) and is_tuple(shape), do: unknown(dtype)

  def new(data, dtype, shape) do
    raise ArgumentError,
          "expected a binary, a dtype and a tuple of sides, got: " <>
            inspect({data, dtype, shape}, limit: 20, printable_limit: 100)
  end

  defp unknown(dtype) do
    dtypes = @sizes |> Map.keys() |> Enum.sort() |> Enum.map_join(", ", &inspect/1)
    raise ArgumentError, "expected a dtype, one of #{dtypes}, got: #{inspect(dtype)}"
  end

  @doc """
  Makes a tensor of the elements in a list, of nested lists of equal length, or of a single number.

      iex> Snakepit.Tensor.from_list([[1, 2], [3, 4]], :uint8)
      Snakepit.Tensor.new(<<1, 2, 3, 4>>, :uint8, {2, 2})

      iex> Snakepit.Tensor.from_list([0.5, :nan, -1], :float32).shape
      {3}

  Floats are rounded to the nearest value of the dtype. An element of a complex dtype is a pair of the real
  and the imaginary part, a `Complex` from the library of that name, or a number without an imaginary part.

  Raises `ArgumentError`, which names the place, if an element does not have the dtype or is out of its range, or
  if lists differ in length.
  """
  @doc since: "0.1.0"
  @spec from_list([element | list] | element, dtype) :: t
  def from_list(list, dtype) when is_map_key(@sizes, dtype) do
    sides = sides(list)
    data = list |> elements(sides, dtype, []) |> IO.iodata_to_binary()
    %__MODULE__{data: data, dtype: dtype, shape: List.to_tuple(sides)}
  end

  def from_list(_list, dtype), do: unknown(dtype)

  defp sides([first | _] = list), do: [length(list) | sides(first)]
  defp sides([]), do: [0]
  defp sides(_element), do: []

  defp elements(list, [side | sides], dtype, path) when is_list(list) and length(list) == side do
    for {item, index} <- Enum.with_index(list), do: elements(item, sides, dtype, [index | path])
  end

  defp elements(element, [], dtype, path) do
    case Elements.write(element, dtype) do
      {:ok, bytes} -> bytes
      :error -> raise ArgumentError, wrong(element, "an element of #{inspect(dtype)}", path)
    end
  end

  defp elements(other, [side | _], _dtype, path),
    do: raise(ArgumentError, wrong(other, "a list of length #{side}, like the first,", path))

  defp wrong(got, wanted, path) do
    place = path |> Enum.reverse() |> Enum.map_join(&"[#{&1}]")
    at = if place != "", do: " at #{place}"
    "expected #{wanted}#{at}, got: #{inspect(got, limit: 5, printable_limit: 100)}"
  end

  @doc """
  Returns the elements in lists nested according to the shape; for a tensor without axes, its single element.

      iex> Snakepit.Tensor.to_list(Snakepit.Tensor.new(<<1, 2, 3, 4>>, :uint8, {2, 2}))
      [[1, 2], [3, 4]]

      iex> Snakepit.Tensor.to_list(Snakepit.Tensor.from_list([{1, -2}, :nan], :complex64))
      [{1.0, -2.0}, {:nan, 0.0}]
  """
  @doc since: "0.1.0"
  @spec to_list(t) :: [element | list] | element
  def to_list(%__MODULE__{} = tensor) do
    tensor = new(tensor.data, tensor.dtype, tensor.shape)
    elements = Elements.read(tensor.data, tensor.dtype)
    {list, []} = nested(elements, Tuple.to_list(tensor.shape))
    list
  end

  defp nested([element | rest], []), do: {element, rest}
  defp nested(elements, [side]), do: Enum.split(elements, side)

  defp nested(elements, [side | sides]) do
    Enum.map_reduce(1..side//1, elements, fn _, elements -> nested(elements, sides) end)
  end

  @doc """
  Converts an `Nx` tensor. `{:f, 8}` becomes `:float8_e5m2`.

  Raises `Snakepit.Error` if something would be lost: a numpy array has no axis names
  (`Nx.rename/2`), no vectorized axes (`Nx.devectorize/2`), and no elements of 2 or 4 bits
  (`Nx.as_type/2`).
  """
  @doc since: "0.1.0"
  @spec from_nx(struct) :: t
  def from_nx(%{__struct__: Nx.Tensor} = tensor) do
    type = Nx.type(tensor)
    axes = Map.get(tensor, :vectorized_axes, [])

    cond do
      axes != [] ->
        refuse("the vectorized axes #{inspect(axes)}", "devectorize(tensor, keep_names: false)")

      Enum.any?(tensor.names) ->
        none = tensor.names |> Enum.map(fn _ -> nil end) |> inspect()
        refuse("the axis names #{inspect(tensor.names)}", "rename(tensor, #{none})")

      not is_map_key(@nx, type) ->
        refuse("the type #{inspect(type)}", "as_type(tensor, #{inspect(wider(type))})")

      true ->
        new(Nx.to_binary(tensor), @nx[type], Nx.shape(tensor))
    end
  end

  def from_nx(other), do: raise(ArgumentError, "expected an Nx tensor, got: #{inspect(other)}")

  defp refuse(what, instead) do
    message = "an Nx tensor with #{what}, which numpy arrays do not have; send Nx.#{instead}"
    raise Error, reason: :invalid_args, message: message
  end

  # For elements of less than a byte.
  defp wider({kind, _bits}), do: {kind, 8}

  @doc """
  Converts a tensor to an `Nx` tensor. A `:bool` becomes `{:u, 8}`.

  Nx raises `ArgumentError` for a type that its version does not have (the float8 types before 0.9 and 0.11), and for
  a tensor without elements.
  """
  @doc since: "0.1.0"
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
