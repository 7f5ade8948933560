# The parts of Nx that Snakepit uses and that its errors recommend: the fields of a tensor, and
# functions with the same names and results. If Nx itself is on the code path, the tests use it.
unless Code.ensure_loaded?(Nx.BinaryBackend) do
  defmodule Nx.Tensor do
    @moduledoc false
    @enforce_keys [:type, :shape, :names]
    defstruct [:data, :type, :shape, :names, vectorized_axes: []]
  end

  defmodule Nx do
    @moduledoc false

    def from_binary(binary, type, _options \\ []) when binary != "" do
      count = div(bit_size(binary), elem(type, 1))
      %Nx.Tensor{data: binary, type: type, shape: {count}, names: [nil]}
    end

    def reshape(tensor, shape, options \\ []) do
      names = Keyword.get(options, :names, List.duplicate(nil, tuple_size(shape)))
      %{tensor | shape: shape, names: names}
    end

    def rename(tensor, names), do: %{tensor | names: names}

    def vectorize(%{shape: shape, names: [_ | names]} = tensor, name) do
      axes = tensor.vectorized_axes ++ [{name, elem(shape, 0)}]
      %{tensor | shape: Tuple.delete_at(shape, 0), names: names, vectorized_axes: axes}
    end

    def devectorize(tensor, keep_names: false) do
      sizes = Keyword.values(tensor.vectorized_axes)
      names = Enum.map(sizes, fn _ -> nil end) ++ tensor.names
      shape = List.to_tuple(sizes ++ Tuple.to_list(tensor.shape))
      %{tensor | shape: shape, names: names, vectorized_axes: []}
    end

    def to_binary(tensor), do: tensor.data
    def type(tensor), do: tensor.type
    def shape(tensor), do: tensor.shape
  end
end
