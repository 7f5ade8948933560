defmodule Snakepit.Tensor.Elements do
  @moduledoc false
  # Converts the elements of tensors between little-endian bytes and terms.

  import Bitwise

  # Sizes in bits.
  @signed %{int8: 8, int16: 16, int32: 32, int64: 64}
  @unsigned %{uint8: 8, uint16: 16, uint32: 32, uint64: 64}
  # Float types that Erlang's binaries support, and types that they do not.
  @floats %{float16: 16, float32: 32, float64: 64}
  @small_floats %{bfloat16: 16, float8_e4m3fn: 8, float8_e5m2: 8}
  @complex %{complex64: :float32, complex128: :float64}

  # The bits of the exponent and of the fraction.
  @formats %{
    float16: {5, 10},
    float32: {8, 23},
    float64: {11, 52},
    bfloat16: {8, 7},
    float8_e4m3fn: {4, 3},
    float8_e5m2: {5, 2}
  }

  @sizes Map.merge(
           %{bool: 8, complex64: 64, complex128: 128},
           Enum.reduce([@signed, @unsigned, @floats, @small_floats], &Map.merge/2)
         )

  @doc "Each dtype and its size in bytes."
  def sizes, do: Map.new(@sizes, fn {dtype, bits} -> {dtype, div(bits, 8)} end)

  @doc "Reads the elements in `data`."
  @spec read(binary, atom) :: list
  def read(data, :bool), do: for(<<byte <- data>>, do: byte != 0)

  for {dtype, bits} <- @signed do
    def read(data, unquote(dtype)),
      do: for(<<element::little-signed-size(unquote(bits)) <- data>>, do: element)
  end

  for {dtype, bits} <- @unsigned do
    def read(data, unquote(dtype)),
      do: for(<<element::little-size(unquote(bits)) <- data>>, do: element)
  end

  def read(data, dtype) when is_map_key(@complex, dtype) do
    data |> read(@complex[dtype]) |> Enum.chunk_every(2) |> Enum.map(&List.to_tuple/1)
  end

  def read(data, dtype) when is_map_key(@formats, dtype), do: floats(data, dtype)

  @doc "Writes an element as bytes; `:error` if it is not an element of the dtype."
  @spec write(term, atom) :: {:ok, iodata} | :error
  def write(true, :bool), do: {:ok, <<1>>}
  def write(false, :bool), do: {:ok, <<0>>}

  def write(element, dtype) when is_integer(element) and is_map_key(@signed, dtype) do
    bits = @signed[dtype]
    limit = 1 <<< (bits - 1)

    if element >= -limit and element < limit,
      do: {:ok, <<element::little-size(bits)>>},
      else: :error
  end

  def write(element, dtype) when is_integer(element) and is_map_key(@unsigned, dtype) do
    bits = @unsigned[dtype]
    if element >>> bits == 0, do: {:ok, <<element::little-size(bits)>>}, else: :error
  end

  def write({re, im}, dtype) when is_map_key(@complex, dtype) do
    with {:ok, re} <- write(re, @complex[dtype]),
         {:ok, im} <- write(im, @complex[dtype]),
         do: {:ok, [re, im]}
  end

  def write(%{__struct__: Complex, re: re, im: im}, dtype) when is_map_key(@complex, dtype),
    do: write({re, im}, dtype)

  def write(element, dtype) when is_map_key(@complex, dtype), do: write({element, 0}, dtype)

  def write(element, dtype) when is_map_key(@formats, dtype) do
    bits = @sizes[dtype]

    with {:ok, code} <- code(element, dtype), do: {:ok, <<code::little-size(bits)>>}
  end

  def write(_element, _dtype), do: :error

  defp floats(<<>>, _dtype), do: []

  for {dtype, bits} <- @floats do
    defp floats(<<element::float-little-size(unquote(bits)), rest::binary>>, unquote(dtype)),
      do: [element | floats(rest, unquote(dtype))]

    # A value that is not finite, which does not match a float segment.
    defp floats(<<code::little-size(unquote(bits)), rest::binary>>, unquote(dtype)),
      do: [float(code, unquote(dtype)) | floats(rest, unquote(dtype))]
  end

  for {dtype, bits} <- @small_floats do
    defp floats(data, unquote(dtype)),
      do: for(<<code::little-size(unquote(bits)) <- data>>, do: float(code, unquote(dtype)))
  end

  defp float(code, :float8_e4m3fn) when (code &&& 127) == 127, do: :nan

  defp float(code, dtype) do
    {exponent_bits, fraction_bits} = @formats[dtype]
    highest = (1 <<< exponent_bits) - 1
    negative? = code >>> (exponent_bits + fraction_bits) == 1
    exponent = code >>> fraction_bits &&& highest
    fraction = code &&& (1 <<< fraction_bits) - 1

    cond do
      exponent < highest or dtype == :float8_e4m3fn ->
        implied = if exponent == 0, do: 0, else: 1 <<< fraction_bits
        scale = max(exponent, 1) - bias(dtype) - fraction_bits
        value = (implied + fraction) * :math.pow(2, scale)
        # `-value` has no negative zero before OTP 27.
        if negative?, do: -1.0 * value, else: value

      fraction > 0 ->
        :nan

      negative? ->
        :neg_infinity

      true ->
        :infinity
    end
  end

  defp code(:nan, :float8_e4m3fn), do: {:ok, 127}
  defp code(:nan, dtype), do: {:ok, infinity(dtype) ||| 1 <<< (elem(@formats[dtype], 1) - 1)}
  defp code(element, :float8_e4m3fn) when is_atom(element), do: :error
  defp code(:infinity, dtype), do: {:ok, infinity(dtype)}
  defp code(:neg_infinity, dtype), do: {:ok, infinity(dtype) ||| sign(dtype)}

  for {dtype, bits} <- @floats do
    defp code(element, unquote(dtype)) when is_number(element) do
      <<sign::1, code::size(unquote(bits - 1))>> = <<element::float-size(unquote(bits))>>
      # A value out of the dtype's range gives an infinity, or raises.
      if code <= highest(unquote(dtype)),
        do: {:ok, code ||| sign <<< unquote(bits - 1)},
        else: :error
    rescue
      ArgumentError -> :error
    end
  end

  # Rounds to the nearest value, and ties to the one with an even fraction.
  defp code(element, dtype) when is_number(element) do
    <<negative::1, exponent::11, _::52>> = <<element::float>>
    {_, fraction_bits} = @formats[dtype]
    # At least the exponent of subnormal numbers.
    exponent = max(exponent - 1023 + bias(dtype), 1)
    steps = round_half_even(abs(element) / :math.pow(2, exponent - bias(dtype) - fraction_bits))

    # If the steps overflow the fraction, the exponent grows by one; it is one less for the implied bit.
    code = ((exponent - 1) <<< fraction_bits) + steps
    sign = if negative == 1, do: sign(dtype), else: 0
    if code <= highest(dtype), do: {:ok, code ||| sign}, else: :error
  rescue
    ArgumentError -> :error
  end

  defp code(_element, _dtype), do: :error

  defp round_half_even(value) do
    below = trunc(value)
    over = value - below
    if over > 0.5 or (over == 0.5 and rem(below, 2) == 1), do: below + 1, else: below
  end

  defp bias(dtype) do
    {exponent_bits, _} = @formats[dtype]
    (1 <<< (exponent_bits - 1)) - 1
  end

  defp sign(dtype), do: 1 <<< (@sizes[dtype] - 1)

  defp infinity(dtype) do
    {exponent_bits, fraction_bits} = @formats[dtype]
    ((1 <<< exponent_bits) - 1) <<< fraction_bits
  end

  defp highest(:float8_e4m3fn), do: 126
  defp highest(dtype), do: infinity(dtype) - 1
end
