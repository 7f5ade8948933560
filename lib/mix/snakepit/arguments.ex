defmodule Mix.Snakepit.Arguments do
  @moduledoc false
  # The arguments of a command on the command line: `name=text` and `name:=json`.

  alias Snakepit.Codec

  @doc "Returns a map of names to values, or what is wrong."
  @spec parse([String.t()]) :: {:ok, map} | {:error, String.t()}
  def parse(arguments) do
    Enum.reduce_while(arguments, {:ok, %{}}, fn argument, {:ok, done} ->
      with {:ok, name, value} <- pair(argument), :ok <- new(name, done) do
        {:cont, {:ok, Map.put(done, name, value)}}
      else
        {:error, message} -> {:halt, {:error, message}}
      end
    end)
  end

  # The first `=` or `:=` ends the name.
  defp pair(argument) do
    case Regex.run(~r/\A(.+?)(:?=)(.*)\z/s, argument) do
      [_, name, "=", text] -> {:ok, name, text}
      [_, name, ":=", json] -> json(name, json)
      nil -> {:error, "expected name=text or name:=json, got: #{argument}"}
    end
  end

  defp json(name, json) do
    case Codec.decode_extended(json) do
      {:ok, value} ->
        {:ok, name, value}

      {:error, error} ->
        {:error, "the value of #{name}:=#{json} cannot be read: #{error.message}"}
    end
  end

  defp new(name, done),
    do: if(is_map_key(done, name), do: {:error, "#{name} is given more than once"}, else: :ok)
end
