defmodule Snakepit.PropertyTest do
  # Whatever is sent comes back as the guide says, with every kind of worker.
  use ExUnit.Case, async: true

  import Snakepit.Test.{Pools, Proper}

  alias Snakepit.{Bytes, Codec, Tensor}

  @ways [
    native: [server: :native],
    grpcio: [server: :grpcio],
    stdio: [adapter: Snakepit.Adapters.GenericPythonV2]
  ]
  @python Path.expand("../support/python", __DIR__)
  @value_commands [class: "value_commands:ValueCommands", paths: [@python]]
  @any_types ~w(tuple deque UserList values objects polars arrow Categorical Index)
  @integer_types ["masked", "Int64 frame"]
  @text_types ["string frame"]
  @runs 12
  @values_per_call 100

  setup_all do
    load!()
    :ok
  end

  for {way, options} <- @ways do
    test "#{@runs * @values_per_call} values come back unchanged, over #{way}" do
      pool = start_pool!(unquote(options))
      values = types(:vector, [@values_per_call, value()])

      check!(values, @runs, fn values ->
        args = values |> Enum.with_index() |> Map.new(fn {value, n} -> {"v#{n}", value} end)
        {:ok, back} = Snakepit.execute("echo", args, pool: pool, timeout: 60_000)
        back === back_in_elixir(args)
      end)
    end

    test "values of Python's types arrive, over #{way}" do
      pool = start_pool!(unquote(options) ++ [adapter_args: @value_commands])
      kinds = %{integer: @integer_types ++ @any_types, text: @text_types ++ @any_types}

      item = fn item -> types(:list, [types(:union, [[nil, item]])]) end
      integers = types(:tuple, [[types(:union, [kinds.integer]), item.(types(:integer, []))]])
      texts = types(:tuple, [[types(:union, [kinds.text]), item.(text())]])

      check!(types(:vector, [20, types(:union, [[integers, texts]])]), @runs, fn made ->
        {kinds, items} = Enum.unzip(made)
        args = %{kinds: kinds, items: items}
        {:ok, back} = Snakepit.execute("made", args, pool: pool, timeout: 60_000)
        wanted = Enum.map(made, &arrives_as/1)
        fields = for {value, n} <- Enum.with_index(wanted), do: {to_string(n), value}
        back === Map.new([{"nested", [wanted]} | fields])
      end)
    end
  end

  test "a message that is corrupted or truncated is read or refused" do
    changes = types(:tuple, [[value(), types(:non_neg_integer, []), types(:byte, [])]])

    check!(changes, 300, fn {value, at, byte} ->
      {:ok, message} = Codec.encode_extended(value)
      at = rem(at, byte_size(message))
      start = binary_part(message, 0, at)
      rest = binary_part(message, at + 1, byte_size(message) - at - 1)

      for spoilt <- [<<start::binary, byte, rest::binary>>, start],
          {kind, _} = Codec.decode_extended(spoilt),
          do: true = kind in [:ok, :error]

      true
    end)
  end

  defp types(name, args), do: apply(:proper_types, name, args)

  defp mapped(type, fun), do: types(:bind, [type, fun, false])

  defp value, do: types(:sized, [&value/1])

  defp value(0), do: scalar()

  defp value(size) do
    smaller = types(:lazy, [fn -> value(div(size, 3)) end])

    types(:weighted_union, [
      [
        {4, scalar()},
        {1, types(:list, [smaller])},
        {1, mapped(types(:loose_tuple, [smaller]), &no_pair/1)},
        {2, mapped(types(:list, [types(:tuple, [[key(), smaller]])]), &map/1)},
        {1,
         mapped(
           types(:list, [types(:tuple, [[atom(), smaller]])]),
           &Enum.uniq_by(&1, fn {key, _} -> key end)
         )}
      ]
    ])
  end

  defp scalar do
    types(:union, [
      [
        nil,
        true,
        false,
        types(:integer, []),
        mapped(types(:binary, []), &:binary.decode_unsigned(<<1, &1::binary>>)),
        types(:float, []),
        mapped(types(:integer, [-300, 300]), &(1.7 * :math.pow(10, &1))),
        text(),
        types(:binary, []),
        mapped(types(:binary, []), &Snakepit.bytes/1),
        atom(),
        mapped(types(:tuple, [[dtype(), types(:binary, [])]]), &tensor/1),
        mapped(types(:list, [types(:float, [])]), &floats/1)
      ]
    ])
  end

  defp atom, do: types(:union, [[:nan, :infinity, :neg_infinity, :ok, :"$snakepit", :ü]])

  defp text do
    types(:union, [
      [mapped(types(:list, [types(:range, [0, 0xD7FF])]), &List.to_string/1), "$snakepit"]
    ])
  end

  defp key, do: types(:union, [[text(), types(:integer, []), atom()]])

  # A list of such pairs would be a keyword list, which has each key once.
  defp no_pair({key, value}) when is_atom(key), do: {key, value, key}
  defp no_pair(tuple), do: tuple

  defp map(pairs), do: pairs |> Enum.uniq_by(fn {key, _} -> to_string(key) end) |> Map.new()

  defp dtype, do: types(:union, [Map.keys(Map.delete(Tensor.Elements.sizes(), :bool))])

  defp tensor({dtype, bytes}) do
    size = Tensor.Elements.sizes()[dtype]
    count = div(byte_size(bytes), size)
    Tensor.new(binary_part(bytes, 0, count * size), dtype, {count})
  end

  defp floats(floats) do
    Tensor.new(
      for(float <- floats, into: <<>>, do: <<float::float-little>>),
      :float64,
      {length(floats)}
    )
  end

  defp arrives_as({type, items}) when type in ["Int64 frame", "string frame"],
    do: %{"row" => Enum.to_list(0..(length(items) - 1)//1), "x" => items}

  defp arrives_as({_type, items}), do: items

  defp back_in_elixir(%Bytes{data: data}), do: data
  defp back_in_elixir(%Tensor{} = tensor), do: tensor

  defp back_in_elixir(map) when is_map(map) do
    Map.new(map, fn {key, value} -> {to_string(key), back_in_elixir(value)} end)
  end

  defp back_in_elixir([{key, _} | _] = keyword) when is_atom(key) do
    if Keyword.keyword?(keyword),
      do: keyword |> Map.new() |> back_in_elixir(),
      else: Enum.map(keyword, &back_in_elixir/1)
  end

  defp back_in_elixir(list) when is_list(list), do: Enum.map(list, &back_in_elixir/1)

  defp back_in_elixir(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> back_in_elixir()

  defp back_in_elixir(kept) when kept in [nil, true, false, :nan, :infinity, :neg_infinity],
    do: kept

  defp back_in_elixir(atom) when is_atom(atom), do: Atom.to_string(atom)
  defp back_in_elixir(value), do: value
end
