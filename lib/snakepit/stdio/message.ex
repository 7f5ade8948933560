defmodule Snakepit.Stdio.Message do
  @moduledoc false
  # The messages of workers over stdin and stdout, as specified in `guides/adapters.md`. The native library writes
  # their length.

  alias Snakepit.{Codec, Error}

  # The reasons that a worker may send. Any other counts as an error of the command.
  @reasons ~w(cancelled command_error internal_error invalid_args invalid_result message_too_large
              pool_saturated session_lost streaming_not_supported timeout unknown_command)a

  @details ~w(type message traceback frames notes cause code data)a
  @frame ~w(file line function source)a

  @doc "Encodes a request. `fields` are added to those of every request."
  @spec request(pos_integer, String.t(), map | keyword, map) ::
          {:ok, binary} | {:error, Error.t()}
  def request(id, command, args, fields \\ %{}) do
    with {:ok, args} <- Codec.args(args) do
      request = %{id: id, command: command, args: args, timestamp: System.os_time(:nanosecond)}

      with {:error, error} <- Codec.encode_extended(Map.merge(request, fields)),
           do: {:error, %{error | message: String.trim_leading(error.message, ".")}}
    end
  end

  @doc "How a message names a session, and which life of it."
  @spec session(String.t() | nil, non_neg_integer) :: map
  def session(nil, _generation), do: %{}
  def session(id, generation), do: %{session_id: id, session_generation: generation}

  @doc "Returns the result in a response, or the failure."
  @spec result(binary) :: {:ok, map} | {:error, {atom, String.t(), map}}
  def result(message), do: message |> response() |> elem(0)

  @doc "Like `result/1`, with the size of the call's batch, and how long it waited for that, in µs."
  @spec response(binary) ::
          {{:ok, map} | {:error, {atom, String.t(), map}}, {non_neg_integer, non_neg_integer}}
  def response(message) do
    case Codec.decode_extended(message) do
      {:ok, %{"success" => true} = response} ->
        {{:ok, fields(response["result"])}, batch(response)}

      {:ok, %{} = response} ->
        {{:error, failure(response)}, batch(response)}

      {:error, error} ->
        {{:error, {error.reason, error.message, error.details}}, {0, 0}}
    end
  end

  defp batch(%{"batch_size" => size, "batch_wait_us" => wait_us})
       when is_integer(size) and size > 0 and is_integer(wait_us) and wait_us >= 0,
       do: {size, wait_us}

  defp batch(_response), do: {0, 0}

  @doc "How the handler of a cancelled call exited, as its response says."
  def handler_exit(message) do
    case Codec.decode_extended(message) do
      {:ok, %{"ended" => "closed"}} -> :closed
      _ -> :stopped
    end
  end

  @doc """
  What a message is that is no response: `:draining`, which the worker announces; `{call_id, event}`, what
  the command of a call reports; or nil.
  """
  @spec notice(binary) :: :draining | {integer, event} | nil
        when event:
               {:progress, {float, String.t()}}
               | {:telemetry, map}
               | {:ask, map}
               | {:withdraw, integer}
  def notice(message) do
    case Codec.decode_extended(message) do
      {:ok, %{"draining" => true}} -> :draining
      {:ok, %{"event" => event, "call_id" => id} = fields} -> event(event, id, fields)
      _other -> nil
    end
  end

  defp event("progress", id, %{"fraction" => fraction} = fields) when is_number(fraction) do
    text = fields["message"]
    {id, {:progress, {min(max(fraction / 1, 0.0), 1.0), if(is_binary(text), do: text, else: "")}}}
  end

  defp event("telemetry", id, %{"name" => name} = fields) when is_binary(name) do
    values = %{name: name, measurements: map(fields, "measurements")}
    {id, {:telemetry, Map.put(values, :metadata, map(fields, "metadata"))}}
  end

  defp event("ask", id, %{"ask_id" => ask_id, "tool" => tool} = fields)
       when is_integer(ask_id) and is_binary(tool) do
    ask = %{id: ask_id, tool: tool, args: map(fields, "args")}
    {id, {:ask, Map.put(ask, :timeout_us, fields["timeout_us"] || 0)}}
  end

  defp event("withdraw", id, %{"ask_id" => ask_id}) when is_integer(ask_id),
    do: {id, {:withdraw, ask_id}}

  defp event(_event, _id, _fields), do: nil

  defp map(fields, key), do: with(%{^key => %{} = map} <- fields, do: map, else: (_ -> %{}))

  defp fields(nil), do: %{}
  defp fields(%{} = result) when not is_struct(result), do: result
  defp fields(result), do: %{"result" => result}

  defp failure(%{"error_detail" => %{} = detail} = response) do
    reason = Enum.find(@reasons, :python_error, &(Atom.to_string(&1) == detail["reason"]))
    {reason, text(response["error"]), details(detail)}
  end

  defp failure(response), do: {:python_error, text(response["error"]), %{}}

  defp details(%{"type" => type} = detail) when type != nil, do: exception(detail)
  defp details(%{"errors" => errors}) when is_list(errors), do: %{errors: errors}
  defp details(_detail), do: %{}

  # The details that Snakepit.Error lists for an exception.
  defp exception(detail) do
    for {key, value} <- known(detail, @details), into: %{} do
      case {key, value} do
        {:frames, [_ | _] = frames} -> {:frames, Enum.map(frames, &Map.new(known(&1, @frame)))}
        {:cause, %{} = cause} -> {:cause, exception(cause)}
        other -> other
      end
    end
  end

  defp known(map, keys) do
    for key <- keys, {:ok, value} <- [Map.fetch(map, Atom.to_string(key))], do: {key, value}
  end

  defp text(error) when is_binary(error), do: error
  defp text(nil), do: "the worker sent no error message"
  defp text(error), do: inspect(error)
end
