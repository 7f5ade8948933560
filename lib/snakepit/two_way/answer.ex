defmodule Snakepit.TwoWay.Answer do
  @moduledoc false
  # Sends the answers of tools, over the native library or to a worker over stdin and stdout.

  alias Snakepit.{Codec, Error, Native, Structs}
  alias Snakepit.Stdio.Message

  @typedoc "The call that has asked: a resource of the native library, or what `stdio/4` or `relay/2` returns."
  @type call :: reference | {:stdio, map} | {:relay, pid, reference}

  @doc "A call of a worker over stdin and stdout; `holding` is its place, a resource."
  @spec stdio(pid, pos_integer, reference, pos_integer) :: call
  def stdio(worker, call_id, holding, limit),
    do: {:stdio, %{worker: worker, call_id: call_id, holding: holding, limit: limit}}

  @doc "A call of another node, for which a process there waits."
  @spec relay(pid, reference) :: call
  def relay(process, ref), do: {:relay, process, ref}

  @doc "The process that waits for the answer, if it is one."
  @spec waiting(call) :: pid | nil
  def waiting({:relay, process, _ref}), do: process
  def waiting(_call), do: nil

  @doc "The resources that stand for the call's place, if that is on this node."
  @spec holding(call) :: [reference]
  def holding({:stdio, %{holding: holding}}), do: [holding]
  def holding({:relay, _process, _ref}), do: []
  def holding(conversation), do: [conversation]

  @doc "Answers with a value."
  @spec value(call, pos_integer, term) :: :ok | {:error, Error.t()}
  def value({:stdio, call}, ask_id, value) do
    with {:error, error} <- send_stdio(call, ask_id, %{value: value}) do
      message = String.replace_prefix(error.message, "args.value", "answer")
      {:error, %{error | message: message}}
    end
  end

  # Structs are converted here, where their modules are.
  def value({:relay, process, ref}, _ask_id, value) do
    with {:ok, value} <- Structs.replace(value, "answer") do
      send(process, {ref, {:ok, value}})
      :ok
    end
  end

  def value(conversation, ask_id, value) do
    quick = &Native.answer(conversation, ask_id, &1)
    large = &Native.answer_large(conversation, ask_id, &1)
    value |> Codec.encode(quick, large, "answer") |> Codec.returned()
  end

  @doc "Answers with a failure, whose data may be anything: what cannot be sent is shown."
  @spec failed(call, pos_integer, map) :: :ok
  def failed({:stdio, call}, ask_id, failure) do
    error = Map.take(failure, [:code, :message, :data])

    with {:error, _error} <- send_stdio(call, ask_id, %{error: error}),
         do: send_stdio(call, ask_id, %{error: %{error | data: inspect(failure.data)}})

    :ok
  end

  def failed({:relay, process, ref}, _ask_id, failure) do
    data =
      with {:error, _error} <- Structs.replace(failure.data, ""), do: {:ok, inspect(failure.data)}

    send(process, {ref, {:error, {failure.code, failure.message, elem(data, 1)}}})
    :ok
  end

  def failed(conversation, ask_id, failure),
    do: Native.answer_failed(conversation, ask_id, %{failure | data: data(failure.data)})

  @doc "The tools of so many asks of a call that were withdrawn have been ended. Only the native library waits for that."
  @spec withdrawals_handled(reference | nil, pos_integer) :: :ok
  def withdrawals_handled(nil, _count), do: :ok

  def withdrawals_handled(conversation, count),
    do: Native.withdrawals_handled(conversation, count)

  defp send_stdio(call, ask_id, answer) do
    args = Map.merge(answer, %{call_id: call.call_id, ask_id: ask_id})

    with {:ok, message} <- Message.request(0, "$answer", args),
         :ok <- check_size(byte_size(message), call.limit) do
      send(call.worker, {:answer, call.call_id, ask_id, message})
      :ok
    end
  end

  defp check_size(size, limit) when size <= limit, do: :ok

  defp check_size(size, limit) do
    message =
      "the answer has #{size} bytes, and the limit is #{limit}; raise :max_message_size to send it"

    {:error, %Error{reason: :message_too_large, message: message}}
  end

  defp data(nil), do: ""

  defp data(data) do
    with {:error, _error} <- Codec.encode_extended(data),
         {:ok, shown} <- Codec.encode_extended(inspect(data)),
         do: shown,
         else: ({:ok, encoded} -> encoded)
  end
end
