defmodule Snakepit.Structs do
  @moduledoc false
  # Replaces structs by the values that `Snakepit.Encoder` returns for them. A NIF cannot call a protocol.

  alias Snakepit.{Arrow, Bytes, Encoder, Error, Input, Tensor}
  alias Snakepit.Error.Cause

  @compile {:no_warn_undefined, Decimal}

  # Stops encoders that recurse without end; the NIF enforces the actual limit.
  @max_depth 256

  @shown [limit: 5, printable_limit: 100]

  @doc "Replaces all structs but those that the NIF knows; `root` names the value in errors."
  @spec replace(term, String.t()) :: {:ok, term} | {:error, Error.t()}
  def replace(value, root) do
    {:ok, replace(value, [], 0)}
  catch
    {:refused, path, problem} ->
      message = "#{root}#{path |> Enum.reverse() |> Enum.map_join(&step/1)} #{problem}"
      {:error, %Error{reason: :invalid_args, message: message}}
  end

  defp replace(_value, path, @max_depth) do
    throw({:refused, path, "is nested deeper than 128 levels"})
  end

  defp replace(%module{} = struct, _path, _depth) when module in [Arrow, Bytes, Input, Tensor],
    do: struct

  defp replace(%module{} = struct, path, depth) do
    case encode(struct) do
      {:ok, encoded} ->
        replace(encoded, path, depth + 1)

      :error ->
        throw(
          {:refused, path,
           "is a %#{inspect(module)}{}; implement Snakepit.Encoder for it, or send a map or a string"}
        )

      {:refused, problem} ->
        throw({:refused, path, problem})
    end
  end

  defp replace(map, path, depth) when is_map(map) do
    Map.new(map, fn {key, value} -> {key, replace(value, [key | path], depth + 1)} end)
  end

  defp replace([{key, _value} | _] = list, path, depth) when is_atom(key) do
    list(list, path, depth, 0, fn
      {key, value}, _index -> {key, replace(value, [key | path], depth + 1)}
      item, index -> replace(item, [{:index, index} | path], depth + 1)
    end)
  end

  defp replace(list, path, depth) when is_list(list) do
    list(list, path, depth, 0, &replace(&1, [{:index, &2} | path], depth + 1))
  end

  defp replace(tuple, path, depth) when is_tuple(tuple) do
    tuple |> Tuple.to_list() |> replace(path, depth) |> List.to_tuple()
  end

  defp replace(value, _path, _depth), do: value

  # However an encoder fails, the error names the place of its struct.
  defp encode(%module{} = struct) do
    if Encoder.impl_for(struct) in [nil, Encoder.Any],
      do: encode_optional(struct),
      else: {:ok, Encoder.encode(struct)}
  rescue
    error ->
      failed(
        module,
        "raised #{inspect(error.__struct__)}: #{Cause.text(Exception.message(error))}"
      )
  catch
    :throw, value -> failed(module, "threw #{inspect(value, @shown)}")
    :exit, reason -> failed(module, "exited: #{Cause.text(Exception.format_exit(reason))}")
  end

  defp failed(module, problem),
    do: {:refused, "is a %#{inspect(module)}{}, and its encoder #{problem}"}

  # These libraries may have been added after this module was compiled.
  defp encode_optional(%{__struct__: Decimal} = decimal), do: {:ok, Decimal.to_string(decimal)}

  defp encode_optional(%{__struct__: Nx.Tensor} = tensor) do
    {:ok, Tensor.from_nx(tensor)}
  rescue
    error in Error -> {:refused, "is #{error.message}"}
  end

  defp encode_optional(%{__struct__: Explorer.DataFrame} = frame),
    do: {:ok, Arrow.from_explorer(frame)}

  defp encode_optional(_struct), do: :error

  # Keeps an improper list improper: the NIF refuses it.
  defp list([item | rest], path, depth, index, replace) do
    [replace.(item, index) | list(rest, path, depth, index + 1, replace)]
  end

  defp list(rest, _path, _depth, _index, _replace), do: rest

  defp step({:index, index}), do: "[#{index}]"
  defp step(key) when is_binary(key), do: ".#{Cause.text(key)}"
  defp step(key) when is_atom(key) or is_integer(key), do: ".#{key}"
  defp step(key), do: "[#{inspect(key)}]"
end
