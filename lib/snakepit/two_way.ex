defmodule Snakepit.TwoWay do
  @moduledoc false
  # Two-way calls over the native library: those whose commands ask the tools of their callers, or take input streams.
  #
  #     caller ── args, items ──▶ NIF ═════▶ worker
  #        ▲ ◀── result, chunks ──  │  ◀═════
  #        │                        └─ asks ─▶ Asks (a process for each call) ──▶ a task for each ask, which runs the
  #        └ the items of its enumerables                                          tool and answers
  #
  # The caller waits as in any call, and takes items of its enumerables meanwhile, as far as Python has asked for them.

  alias Snakepit.{Codec, Error, Input, Native, Overdue, Progress}
  alias Snakepit.TwoWay.{Asks, Holding, Inputs}

  @enforce_keys [:handle]
  defstruct [:handle, :asks, :inputs, pushed: %{}]

  @type t :: %__MODULE__{
          handle: reference,
          asks: pid | nil,
          # The enumerables, nil without any.
          inputs: Inputs.t() | nil,
          # The ids of the inputs that processes push to, by their names.
          pushed: %{String.t() => pos_integer}
        }

  # How long to wait for the end of the tools, in ms.
  @patience 1_000

  @doc """
  Starts a two-way call. Without `stream`, the properties of a stream, the calling process gets one reply. `kind` is that of
  the function: `:call`, `:map`, `:stream`, or `:messages` if the calling process receives the chunks itself.
  """
  @spec start(reference, reference, term, map, map, atom, map | nil) ::
          {:ok, t} | {:error, Error.t()}
  def start(target, ref, args, spec, options, kind, stream \\ nil) do
    with {:ok, args, inputs} <- split(args, kind, spec),
         {:ok, asks} <- Asks.start(options.tools) do
      two_way = %{
        stream: stream,
        asks: asks,
        tools: if(options.tools, do: Map.keys(options.tools.functions), else: []),
        max_asks: options.max_asks,
        inputs: for({name, input} <- inputs, do: spec(name, input))
      }

      quick = &Native.converse(target, ref, &1, spec, two_way)
      large = &Native.converse_large(target, ref, &1, spec, two_way)

      case args |> Codec.encode(quick, large) |> Codec.returned(spec.command, spec.request_id) do
        {:ok, handle} ->
          {:ok, started(%__MODULE__{handle: handle, asks: asks}, inputs, ref, spec)}

        {:error, error} ->
          if asks, do: Asks.stop(asks, @patience)
          {:error, error}
      end
    end
  end

  defp spec(name, input),
    do: %{name: name, max_items: input.max_items, max_bytes: input.max_bytes}

  defp started(two_way, [], _ref, _spec), do: two_way

  defp started(two_way, [{_name, %{source: :push}} | _] = inputs, _ref, _spec) do
    numbered = Enum.with_index(inputs, 1)
    %{two_way | pushed: Map.new(numbered, fn {{name, _input}, id} -> {name, id} end)}
  end

  defp started(two_way, inputs, ref, spec) do
    about = Map.take(spec, [:command, :request_id])
    %{two_way | inputs: Inputs.new(two_way.handle, ref, inputs, about)}
  end

  @doc "Whether a call has input streams."
  @spec inputs?(term) :: boolean
  def inputs?(args), do: refuse_inputs(args, "") != :ok

  @doc "Returns an error if a call has input streams, which `why` it cannot have."
  @spec refuse_inputs(term, String.t()) :: :ok | {:error, Error.t()}
  def refuse_inputs(args, why) do
    case split(args) do
      {:ok, _args, [{name, _input} | _]} ->
        message = "args.#{name} is an input stream, which #{why}"
        {:error, %Error{reason: :streaming_not_supported, message: message}}

      _none ->
        :ok
    end
  end

  # The inputs are arguments of their own. Anything else than arguments is refused when it is encoded.
  defp split(args, kind, spec) do
    with {:ok, args, inputs} <- split(args),
         nil <- Enum.find_value(inputs, &problem(&1, kind)) do
      {:ok, args, inputs}
    else
      :error ->
        {:ok, args, []}

      message ->
        {:error, %Error{invalid(message) | command: spec.command, request_id: spec.request_id}}
    end
  end

  defp split(args) when is_map(args) and not is_struct(args) do
    case for({name, %Input{}} <- args, do: name) do
      [] -> {:ok, args, []}
      names -> {:ok, Map.drop(args, names), for(name <- names, do: named(name, args[name]))}
    end
  end

  defp split(args) when is_list(args) do
    if Keyword.keyword?(args) do
      {inputs, args} = Enum.split_with(args, &match?({_name, %Input{}}, &1))
      {:ok, args, for({name, input} <- inputs, do: named(name, input))}
    else
      :error
    end
  end

  defp split(_args), do: :error

  defp named(name, input), do: {to_string(name), input}

  defp problem({name, _input}, :map) do
    "args.#{name} is an input stream, which Snakepit.map/3 does not feed: use Snakepit.execute/3"
  end

  defp problem({name, %{source: :push}}, kind) when kind != :messages do
    "args.#{name} is Snakepit.input(:push), to which nobody could push: pass an enumerable, or start the call with " <>
      "Snakepit.start_stream/3"
  end

  defp problem({name, %{source: source}}, :messages) when source != :push do
    "args.#{name} is an input of an enumerable, and start_stream/3 returns before that could be taken: pass " <>
      "Snakepit.input(:push) and call Snakepit.push/3 for each item in a task of your own, or use Snakepit.stream/3"
  end

  defp problem(_input, _kind), do: nil

  defp invalid(message), do: %Error{reason: :invalid_args, message: message}

  @doc "Waits for the reply to a call, and feeds its inputs."
  @spec await(reference, t, String.t(), map) :: term
  def await(ref, two_way, command, options) do
    await(ref, two_way, command, options, Overdue.until(options))
  end

  defp await(ref, two_way, command, options, until) do
    receive do
      {^ref, reply} ->
        two_way |> finish(ref) |> settled(reply)

      {:snakepit_input, ^ref, input_id} ->
        await(ref, woken(two_way, input_id), command, options, until)

      {:snakepit_progress, ^ref, reported} ->
        about = %{command: command, request_id: options.request_id}
        cancel = fn -> cancel(two_way, ref) end
        Progress.pass_on(options.on_progress, ref, reported, about, cancel)
        await(ref, two_way, command, options, until)
    after
      if(feeds?(two_way), do: 0, else: Overdue.left(until)) ->
        if feeds?(two_way) do
          await(ref, feed(two_way), command, options, until)
        else
          reply = Overdue.give_up(two_way.handle, ref, command, options)
          Progress.flush(ref)
          two_way |> finish(ref) |> settled(reply)
        end
    end
  end

  defp settled(nil, reply), do: reply
  defp settled({:error, error}, {:ok, _result, meta}), do: {:error, error, meta}
  defp settled({:error, error}, {:error, _failure, meta}), do: {:error, error, meta}
  defp settled({:error, error}, _reply), do: {:error, error}
  defp settled({kind, reason, stacktrace}, _reply), do: :erlang.raise(kind, reason, stacktrace)

  @doc "Whether an item can be taken from an enumerable now."
  @spec feeds?(t) :: boolean
  def feeds?(%{inputs: nil}), do: false
  def feeds?(%{inputs: inputs}), do: Inputs.ready?(inputs)

  @doc "Takes a few items and sends them."
  @spec feed(t) :: t
  def feed(%{handle: handle, inputs: inputs} = two_way) do
    inputs = Holding.during([handle], fn -> Inputs.take(inputs) end)
    %{two_way | inputs: inputs}
  end

  @doc "Looks at an input after the message `{:snakepit_input, ref, input_id}`."
  @spec woken(t, pos_integer) :: t
  def woken(%{inputs: nil} = two_way, _input_id), do: two_way
  def woken(two_way, input_id), do: %{two_way | inputs: Inputs.look(two_way.inputs, input_id)}

  @doc """
  Ends the enumerables and waits for the end of the tools, after the call has ended. Returns how an enumerable has failed:
  nil, `{:error, error}` for an item that cannot be sent, or `{kind, reason, stacktrace}`.
  """
  @spec finish(t, reference) :: nil | {:error, Error.t()} | {atom, term, list}
  def finish(two_way, ref) do
    if two_way.asks, do: Asks.stop(two_way.asks, @patience)
    failure = if two_way.inputs, do: Inputs.close(two_way.inputs)
    flush(ref)
    failure
  end

  @doc "Cancels a call. After that no message of it comes."
  @spec cancel(t, reference) :: any
  def cancel(two_way, ref) do
    Overdue.cancel(two_way.handle, ref)
    finish(two_way, ref)
  end

  defp flush(ref) do
    receive do
      {:snakepit_input, ^ref, _input_id} -> flush(ref)
    after
      0 -> :ok
    end
  end

  ## Inputs that processes push to

  @doc "Sends an item. Waits until the input takes it, for at most `timeout` ms: then it is `:busy`."
  @spec push(t, String.t() | nil, term, timeout) :: :ok | :busy | {:error, Error.t()}
  def push(two_way, name, item, timeout) do
    with {:ok, {name, id}} <- pushed(two_way, name),
         {:error, %Error{reason: :invalid_args} = error} <-
           push_until(two_way.handle, id, item, until(timeout)) do
      {:error, Inputs.named(error, "args.#{name}: the item")}
    end
  end

  defp push_until(handle, id, item, until) do
    case Inputs.send_item(handle, id, item) do
      taken when taken in [:more, :full] -> :ok
      :stopped -> {:error, closed()}
      {:error, error} -> {:error, error}
      :busy -> with :ok <- await_input(handle, id, until), do: push_until(handle, id, item, until)
    end
  end

  defp await_input(_handle, _id, 0), do: :busy

  defp await_input(handle, id, until) do
    ref = make_ref()

    with :wait <- Native.await_input(handle, id, ref, false) do
      receive do
        {:snakepit_input, ^ref, ^id} -> :ok
      after
        Overdue.left(until) ->
          Native.stop_waiting(handle, ref)

          receive do
            {:snakepit_input, ^ref, ^id} -> :ok
          after
            0 -> :busy
          end
      end
    else
      _more_or_stopped -> :ok
    end
  end

  defp until(timeout) when timeout in [0, :infinity], do: timeout
  defp until(timeout), do: System.monotonic_time(:millisecond) + timeout

  @doc "Ends an input, or all of them."
  @spec finish_input(t, String.t() | nil) :: :ok | {:error, Error.t()}
  def finish_input(two_way, nil) do
    for {_name, id} <- two_way.pushed, do: Native.end_input(two_way.handle, id, nil)
    :ok
  end

  def finish_input(two_way, name) do
    with {:ok, {_name, id}} <- pushed(two_way, name) do
      Native.end_input(two_way.handle, id, nil)
      :ok
    end
  end

  defp pushed(%{pushed: pushed}, nil) when map_size(pushed) == 1,
    do: {:ok, pushed |> Map.to_list() |> hd()}

  defp pushed(%{pushed: pushed}, nil) do
    {:error,
     invalid(
       "the call has several inputs: name one of them with the option :input, #{names(pushed)}"
     )}
  end

  defp pushed(%{pushed: pushed}, name) do
    case pushed do
      %{^name => id} ->
        {:ok, {name, id}}

      _none ->
        {:error,
         invalid("the call has no input #{inspect(name)}: its inputs are #{names(pushed)}")}
    end
  end

  defp names(pushed), do: pushed |> Map.keys() |> Enum.sort() |> Enum.join(", ")

  defp closed do
    message =
      "Python takes no items of this input any more: the command or the call has ended, or it was finished"

    %Error{reason: :input_closed, message: message}
  end
end
