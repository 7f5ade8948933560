defmodule Mix.Snakepit.JSON do
  @moduledoc false
  # Shows results as JSON. Elixir 1.14 has no encoder, and the wire format of Snakepit is not plain
  # JSON. What JSON lacks is shown as text: `:nan` as "nan", bytes as {"base64": "..."}.

  @doc "A value as JSON, on one line, with sorted keys."
  @spec encode(term) :: iodata
  def encode(nil), do: "null"
  def encode(value) when is_number(value), do: to_string(value)
  def encode(value) when is_boolean(value), do: to_string(value)
  def encode(value) when is_atom(value), do: string(to_string(value))

  def encode(value) when is_binary(value) do
    if String.valid?(value), do: string(value), else: encode(%{"base64" => Base.encode64(value)})
  end

  def encode(values) when is_list(values), do: [?[, joined(values, &encode/1), ?]]
  def encode(%Snakepit.Tensor{} = tensor), do: tensor |> Snakepit.Tensor.to_list() |> encode()
  def encode(%_{} = struct), do: struct |> inspect() |> string()

  def encode(map) when is_map(map) do
    member = fn {key, value} -> [string(to_string(key)), ": ", encode(value)] end
    [?{, map |> Enum.sort() |> joined(member), ?}]
  end

  def encode(other), do: other |> inspect() |> string()

  defp joined(items, fun), do: items |> Enum.map(fun) |> Enum.intersperse(", ")

  defp string(text), do: [?", for(<<char::utf8 <- text>>, do: escaped(char)), ?"]

  defp escaped(?"), do: "\\\""
  defp escaped(?\\), do: "\\\\"
  defp escaped(?\n), do: "\\n"
  defp escaped(?\t), do: "\\t"
  defp escaped(?\r), do: "\\r"

  defp escaped(char) when char < 0x20 or char == 0x7F,
    do: ["\\u", char |> Integer.to_string(16) |> String.pad_leading(4, "0")]

  defp escaped(char), do: <<char::utf8>>
end
