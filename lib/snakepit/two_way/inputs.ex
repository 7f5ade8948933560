defmodule Snakepit.TwoWay.Inputs do
  @moduledoc false
  # The input streams of a call that are enumerables. The calling process takes their items, only as many as Python has
  # asked for, and is told when it asks for more.

  alias Snakepit.{Codec, Error, Native}

  # How many items are taken before the caller looks at its messages again.
  @turn 64

  @enforce_keys [:handle, :ref, :about, :open]
  defstruct [:handle, :ref, :about, :open, failure: nil]

  @type t :: %__MODULE__{
          handle: reference,
          ref: reference,
          # The call, for errors.
          about: map,
          # By their ids: the rest of the enumerable, as the continuation of a reduction, and whether Python wants items.
          open: %{pos_integer => %{name: String.t(), rest: fun, begun: boolean, ready: boolean}},
          # How the first of them has failed that did.
          failure: nil | {:error, Error.t()} | {atom, term, list}
        }

  @doc "Begins the inputs of a call."
  @spec new(reference, reference, [{String.t(), Snakepit.Input.t()}], map) :: t
  def new(handle, ref, inputs, about) do
    open =
      for {{name, %{source: source}}, id} <- Enum.with_index(inputs, 1), into: %{} do
        reducer = &take(&1, &2, handle, id)
        rest = &Enumerable.reduce(source, &1, reducer)
        {id, %{name: name, rest: rest, begun: false, ready: false}}
      end

    Enum.reduce(
      Map.keys(open),
      %__MODULE__{handle: handle, ref: ref, about: about, open: open},
      &look(&2, &1)
    )
  end

  @doc "Looks whether Python wants items of an input. If not, a message tells when that has changed."
  @spec look(t, pos_integer) :: t
  def look(%{open: open} = inputs, id) when is_map_key(open, id) do
    case Native.await_input(inputs.handle, id, inputs.ref, true) do
      :stopped -> halt(inputs, id)
      answer -> put_in(inputs.open[id].ready, answer == :more)
    end
  end

  def look(inputs, _id), do: inputs

  @doc "Whether Python wants items of any of them."
  @spec ready?(t) :: boolean
  def ready?(%{open: open}), do: Enum.any?(open, fn {_id, input} -> input.ready end)

  @doc "Takes some items of each input of which Python wants any."
  @spec take(t) :: t
  def take(%{open: open} = inputs) do
    ready = for {id, %{ready: true}} <- open, do: id
    Enum.reduce(ready, inputs, &turn(&2, &1))
  end

  defp turn(inputs, id), do: turn(inputs, id, Map.fetch!(inputs.open, id))

  defp turn(inputs, id, input) do
    {input.rest.({:cont, @turn}), inputs}
  catch
    kind, reason -> fail(inputs, id, {kind, reason, __STACKTRACE__})
  else
    {{:suspended, :full, rest}, inputs} ->
      inputs |> continue(id, rest) |> look(id)

    {{:suspended, :more, rest}, inputs} ->
      continue(inputs, id, rest)

    {{:done, _left}, inputs} ->
      finish(inputs, id)

    {{:halted, :stopped}, inputs} ->
      close(inputs, id)

    {{:halted, {:error, error}}, inputs} ->
      fail(inputs, id, {:error, named(error, input, inputs)})

    # An enumerable that has halted itself, as a stream may.
    {{:halted, _left}, inputs} ->
      finish(inputs, id)
  end

  defp named(error, %{name: name}, %{about: about}),
    do: struct!(error, Map.put(about, :message, "args.#{name}: #{error.message}"))

  defp take(item, left, handle, id) do
    case send_item(handle, id, item) do
      :more when left > 1 -> {:cont, left - 1}
      :more -> {:suspend, :more}
      :full -> {:suspend, :full}
      {:error, error} -> {:halt, {:error, error}}
      _stopped -> {:halt, :stopped}
    end
  end

  defp continue(inputs, id, rest),
    do: update_in(inputs.open[id], &%{&1 | rest: rest, begun: true, ready: true})

  defp finish(inputs, id) do
    Native.end_input(inputs.handle, id, nil)
    close(inputs, id)
  end

  defp fail(inputs, id, failure) do
    Native.end_input(inputs.handle, id, described(failure))
    inputs |> close(id) |> failed(failure)
  end

  defp failed(%{failure: nil} = inputs, failure), do: %{inputs | failure: failure}
  defp failed(inputs, _failure), do: inputs

  defp close(inputs, id), do: %{inputs | open: Map.delete(inputs.open, id)}

  # Closes what the enumerable has opened.
  defp halt(inputs, id) do
    %{rest: rest, begun: begun} = Map.fetch!(inputs.open, id)
    inputs = close(inputs, id)
    if begun, do: rest.({:halt, :stopped})
    inputs
  catch
    kind, reason -> inputs |> close(id) |> failed({kind, reason, __STACKTRACE__})
  end

  @doc "Ends all of them. Returns how the first has failed that did, or nil."
  @spec close(t) :: nil | {:error, Error.t()} | {atom, term, list}
  def close(inputs) do
    Enum.reduce(Map.keys(inputs.open), inputs, &halt(&2, &1)).failure
  end

  @doc "Sends an item: `:more`, `:full`, `:busy`, `:stopped` or an error."
  @spec send_item(reference, pos_integer, term) :: atom | {:error, Error.t()}
  def send_item(handle, id, item) do
    quick = &Native.push(handle, id, &1)
    large = &Native.push_large(handle, id, &1)
    item |> Codec.encode(quick, large, "item") |> Codec.returned()
  end

  # As Python's InputError has it.
  defp described({:error, %Error{} = error}),
    do: %{code: to_string(error.reason), type: "Snakepit.Error", message: error.message, data: ""}

  defp described({:error, %module{} = exception, _stacktrace}) when is_exception(exception),
    do: %{
      code: "exception",
      type: inspect(module),
      message: Exception.message(exception),
      data: ""
    }

  defp described({kind, reason, stacktrace}),
    do: %{
      code: to_string(kind),
      type: "",
      message: Exception.format_banner(kind, reason, stacktrace),
      data: ""
    }
end
