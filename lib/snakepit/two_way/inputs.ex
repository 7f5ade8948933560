defmodule Snakepit.TwoWay.Inputs do
  @moduledoc false
  # The input streams of a call that are enumerables. The calling process takes their items, only as many as Python has
  # asked for, and is told when it asks for more.

  alias Snakepit.{Codec, Error, Native}
  alias Snakepit.TwoWay.Tools

  # How many items are taken before the caller looks at its messages again.
  @turn 64

  @enforce_keys [:handle, :ref, :about, :open]
  defstruct [:handle, :ref, :about, :open, failure: nil]

  @type t :: %__MODULE__{
          handle: reference,
          ref: reference,
          # The call, for errors.
          about: map,
          # By their ids.
          open: %{pos_integer => input},
          # How the first of them has failed that did.
          failure: nil | {:error, Error.t()} | {atom, term, list}
        }

  @typep input :: %{
           name: String.t(),
           # The rest of the enumerable, as the continuation of a reduction.
           rest: fun,
           # How many items were sent.
           sent: non_neg_integer,
           # Whether Python wants items.
           ready: boolean
         }

  @doc "Begins the inputs of a call."
  @spec new(reference, reference, [{String.t(), Snakepit.Input.t()}], map) :: t
  def new(handle, ref, inputs, about) do
    open =
      for {{name, %{source: source}}, id} <- Enum.with_index(inputs, 1), into: %{} do
        reducer = &take(&1, &2, handle, id)
        rest = &Enumerable.reduce(source, &1, reducer)
        {id, %{name: name, rest: rest, sent: 0, ready: false}}
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
    {{:suspended, {state, left}, rest}, inputs} ->
      input = %{input | rest: rest, sent: input.sent + @turn - left, ready: true}
      inputs = put_in(inputs.open[id], input)
      if state == :full, do: look(inputs, id), else: inputs

    {{:done, _left}, inputs} ->
      finish(inputs, id)

    {{:halted, :stopped}, inputs} ->
      close(inputs, id)

    {{:halted, {:error, error, left}}, inputs} ->
      path = "args.#{input.name}[#{input.sent + @turn - left}]"
      error = error |> named(path) |> struct!(inputs.about)
      fail(inputs, id, {:error, error})

    # An enumerable that has halted itself, as a stream may.
    {{:halted, _left}, inputs} ->
      finish(inputs, id)
  end

  @doc "Says in the error of an item which item that is."
  @spec named(Error.t(), String.t()) :: Error.t()
  def named(error, path),
    do: %{error | message: String.replace(error.message, ~r/^(the )?item/, path)}

  defp take(item, left, handle, id) do
    case send_item(handle, id, item) do
      :more when left > 1 -> {:cont, left - 1}
      taken when taken in [:more, :full] -> {:suspend, {taken, left - 1}}
      {:error, error} -> {:halt, {:error, error, left}}
      _stopped -> {:halt, :stopped}
    end
  end

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
    %{rest: rest, sent: sent} = Map.fetch!(inputs.open, id)
    inputs = close(inputs, id)
    # Otherwise it has not begun.
    if sent > 0, do: rest.({:halt, :stopped})
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
  defp described(failure), do: %{shown(failure) | data: ""}

  defp shown({:error, %Error{} = error}), do: Tools.of_error(error)

  defp shown({:error, exception, _stacktrace}) when is_exception(exception),
    do: Tools.exception("exception", exception)

  defp shown({kind, reason, stacktrace}),
    do: Tools.failure(to_string(kind), Exception.format_banner(kind, reason, stacktrace))
end
