defmodule Snakepit.TensorTest do
  use ExUnit.Case, async: true
  doctest Snakepit.Tensor

  alias Snakepit.{Error, Tensor}

  @types %{
    {:u, 8} => :uint8,
    {:s, 64} => :int64,
    {:f, 16} => :float16,
    {:f, 64} => :float64,
    {:bf, 16} => :bfloat16,
    {:f, 8} => :float8_e5m2,
    {:c, 64} => :complex64,
    {:c, 128} => :complex128
  }

  defp nx(type, shape, options \\ []) do
    bits = elem(type, 1) * Enum.product(Tuple.to_list(shape))
    <<0::size(bits)>> |> Nx.from_binary(type) |> Nx.reshape(shape, options)
  end

  describe "lists" do
    test "become tensors, and lists again" do
      for {list, dtype} <- [
            {[[[1, 2], [3, 4], [5, 6]]], :int32},
            {[-128, 127], :int8},
            {[0, 18_446_744_073_709_551_615], :uint64},
            {[-9_223_372_036_854_775_808], :int64},
            {[[true], [false]], :bool},
            {7, :uint16},
            {[], :float32},
            {[[], []], :float32},
            {[0.5, :nan, :infinity, :neg_infinity, -65_504.0], :float16},
            {[0.5, :nan, :infinity, :neg_infinity, 1.401298464324817e-45], :float32},
            {[5.0e-324, 1.7976931348623157e308, :nan, :neg_infinity], :float64},
            {[1.0, -0.5, :nan, :infinity, :neg_infinity], :bfloat16},
            {[57_344.0, :math.pow(2, -16), :nan, :infinity, :neg_infinity], :float8_e5m2},
            {[448.0, -448.0, :math.pow(2, -9), :nan], :float8_e4m3fn},
            {[{1.5, -2.0}, {:nan, :infinity}], :complex64},
            {[[{0.1, 0.2}], [{-0.0, 1.0e300}]], :complex128}
          ] do
        assert list |> Tensor.from_list(dtype) |> Tensor.to_list() === list
      end
    end

    test "of a complex dtype may have numbers and values of the library Complex" do
      complex = %{__struct__: Complex, re: 1.0, im: 2.0}
      tensor = Tensor.from_list([complex, 3], :complex64)
      assert Tensor.to_list(tensor) == [{1.0, 2.0}, {3.0, 0.0}]
    end

    test "have every code of the small floats, each nearest to itself" do
      for {dtype, bits} <- [
            float8_e4m3fn: 8,
            float8_e5m2: 8,
            bfloat16: 16,
            float16: 16
          ] do
        codes = for code <- 0..(2 ** bits - 1), into: <<>>, do: <<code::little-size(bits)>>
        elements = Tensor.to_list(Tensor.new(codes, dtype, {2 ** bits}))
        numbers = Enum.filter(elements, &is_number/1)
        back = numbers |> Tensor.from_list(dtype) |> Tensor.to_list()
        # Bit by bit: zero has a sign.
        assert Enum.map(back, &<<&1::float>>) == Enum.map(numbers, &<<&1::float>>)
        assert :nan in elements
        assert :infinity in elements == (dtype != :float8_e4m3fn)
      end
    end

    test "keep the sign of zero" do
      # By its bits: before OTP 27 the two zeros are equal.
      bits = <<1::1, 0::63>>
      <<zero::float>> = bits

      for dtype <- [:float16, :float32, :float64, :bfloat16, :float8_e4m3fn, :float8_e5m2] do
        [element] = [zero] |> Tensor.from_list(dtype) |> Tensor.to_list()
        assert <<element::float>> == bits
      end
    end

    test "are rounded to the nearest value, and ties to the even one" do
      for {dtype, given, rounded} <- [
            {:bfloat16, 1.00390625, 1.0},
            {:bfloat16, 1.01171875, 1.015625},
            {:bfloat16, 1.003906251, 1.0078125},
            {:float8_e5m2, 1.125, 1.0},
            {:float8_e5m2, 1.375, 1.5},
            {:float8_e4m3fn, 1.0625, 1.0},
            {:float8_e4m3fn, 463.9, 448.0},
            {:float8_e4m3fn, -0.0009, -0.0},
            {:float32, 0.1, 0.10000000149011612}
          ] do
        assert [given] |> Tensor.from_list(dtype) |> Tensor.to_list() == [rounded]
      end
    end

    test "with elements that the dtype lacks are refused, with their place" do
      for {list, dtype, place} <- [
            {[1, 256], :uint8, "an element of :uint8 at [1], got: 256"},
            {[[0], [-129]], :int8, "an element of :int8 at [1][0], got: -129"},
            {[1.5], :int32, "an element of :int32 at [0], got: 1.5"},
            {1, :bool, "an element of :bool, got: 1"},
            {[nil], :float32, "an element of :float32 at [0], got: nil"},
            {[1.0e39], :float32, "at [0], got: 1.0e39"},
            {[70_000], :float16, "at [0], got: 70000"},
            {[1.0e39], :bfloat16, "at [0]"},
            {[480], :float8_e4m3fn, "at [0]"},
            {[:infinity], :float8_e4m3fn, "at [0], got: :infinity"},
            {[Integer.pow(10, 400)], :bfloat16, "at [0]"},
            {[{1, nil}], :complex64, "at [0], got: {1, nil}"},
            {[[1, 2], [3]], :uint8, "a list of length 2, like the first, at [1], got: [3]"},
            {[[1], 2], :uint8, "a list of length 1, like the first, at [1], got: 2"},
            {[1, [2]], :uint8, "at [1], got: [2]"},
            {[1], :int4, "expected a dtype, one of :bfloat16, :bool, "}
          ] do
        error = assert_raise ArgumentError, fn -> Tensor.from_list(list, dtype) end
        assert error.message =~ place
      end
    end
  end

  describe "tensors of Nx" do
    test "become tensors, and Nx tensors again" do
      for {type, dtype} <- @types do
        tensor = nx(type, {2, 3})
        assert %Tensor{dtype: ^dtype, shape: {2, 3}} = ours = Tensor.from_nx(tensor)
        assert ours |> Tensor.to_nx() |> Nx.to_binary() == ours.data
        assert ours |> Tensor.to_nx() |> Nx.type() == type
        assert ours |> Tensor.to_nx() |> Nx.shape() == {2, 3}
      end
    end

    test "whose names, vectorized axes or small elements would be lost are refused, with what to do" do
      named = nx({:f, 32}, {2, 1}, names: [:x, nil])
      vectorized = Nx.vectorize(nx({:f, 32}, {2, 1}), :x)
      small = %{nx({:u, 8}, {2}) | type: {:u, 2}}

      for {tensor, what, instead} <- [
            {named, "the axis names [:x, nil]", "Nx.rename(tensor, [nil, nil])"},
            {vectorized, "the vectorized axes [x: 2]",
             "Nx.devectorize(tensor, keep_names: false)"},
            {small, "the type {:u, 2}", "Nx.as_type(tensor, {:u, 8})"}
          ] do
        error = assert_raise Error, fn -> Tensor.from_nx(tensor) end
        assert error.message =~ "an Nx tensor with #{what}"
        assert error.message =~ instead
      end

      assert Tensor.from_nx(Nx.rename(named, [nil, nil])).shape == {2, 1}
      assert Tensor.from_nx(Nx.devectorize(vectorized, keep_names: false)).shape == {2, 1}
    end
  end
end
