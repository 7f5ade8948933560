defmodule Snakepit.Overdue do
  @moduledoc false
  # The native library enforces deadlines, or the relay of a call to another node (`Snakepit.Relay`). If its threads, or
  # the connection to the node, stand still, the waiting process enforces them itself, one second later.

  alias Snakepit.{Error, Native}

  # How long to wait for the end of a call after its deadline, and for the end of a relay, in ms.
  @grace 1_000
  # The longest wait of a receive, in ms.
  @longest 4_294_967_295

  # The limits of the waits for a stream's events: the time of its deadline, and the timeouts for the first
  # chunk, nil once an event has come, and for each further chunk.
  defstruct [:until, :first, :idle, :command, :options, :pool]

  @doc "How long to wait for the reply to a call, in ms."
  @spec wait(map) :: timeout
  def wait(options), do: late(options.timeout)

  @doc "When that wait ends, for a process that gets other messages meanwhile; a tuple is the pool of another node."
  @spec until(map, Snakepit.pool() | nil) :: integer | :infinity
  def until(options, pool \\ nil),
    do: with(wait when is_integer(wait) <- late(longer(options.timeout, pool)), do: now() + wait)

  @doc "How long to wait until then, in ms."
  @spec left(integer | :infinity) :: timeout
  def left(:infinity), do: :infinity
  def left(until), do: max(until - now(), 0)

  @doc """
  Cancels a call whose reply has not come in that time. Returns the reply if it has come in the last moment,
  else the error. Nothing of the call comes after it.
  """
  def give_up(handle, ref, command, options),
    do: end_call(handle, ref, error(command, options, nil))

  @doc "Returns the limits of a stream. `pool` is named in errors; that of another node is a tuple."
  def limits(command, options, pool) do
    %__MODULE__{
      until: until(options, pool),
      first: first(options, pool),
      idle: options.idle_timeout,
      command: command,
      options: options,
      pool: pool
    }
  end

  # A stream that has delivered nothing is repeated on its node, and gets this time once more.
  defp first(_options, {_name, _node}), do: :infinity
  defp first(options, _pool), do: options.first_chunk_timeout

  @doc "How long to wait for a stream's next event, in ms."
  @spec wait_for_event(%__MODULE__{} | nil) :: timeout
  # Another process enforces them.
  def wait_for_event(nil), do: :infinity

  def wait_for_event(limits) do
    # An atom is greater than a number.
    min(left(limits.until), late(longer(limits.first || limits.idle, limits.pool)))
  end

  @doc "As `give_up/4`, for a stream."
  def give_up(handle, ref, limits), do: end_call(handle, ref, stream_error(limits))

  @doc "Cancels a call, by its handle or its relay. After it has returned, nothing more is sent."
  @spec cancel(term) :: :ok
  def cancel(relay) when is_pid(relay) do
    monitor = Process.monitor(relay)
    send(relay, :cancel)

    receive do
      {:DOWN, ^monitor, :process, ^relay, _reason} -> :ok
    after
      # It is held up while the connection to the other node stands still.
      @grace ->
        Process.exit(relay, :kill)
        receive do: ({:DOWN, ^monitor, :process, ^relay, _reason} -> :ok)
    end
  end

  def cancel(handle), do: Native.cancel(handle)

  @doc "Cancels a call whose reply nobody wants. Nothing of the call comes after it."
  @spec cancel(term, term) :: :ok
  def cancel(handle, ref) do
    end_call(handle, ref, nil)
    :ok
  end

  defp end_call(handle, ref, error) do
    cancel(handle)

    receive do
      {^ref, reply} -> reply
      {:snakepit, ^ref, event} -> event
    after
      0 -> {:error, error}
    end
  end

  defp stream_error(%{command: command, options: options} = limits) do
    chunk = if limits.first, do: :first_chunk_timeout, else: :idle_timeout

    what =
      if limits.until != :infinity and limits.until <= now(),
        do: deadline_passed(options),
        else: "no chunk came within #{Map.fetch!(options, chunk)} ms (#{inspect(chunk)})"

    error(what, command, options, limits.pool)
  end

  @doc "The error of a call to another node's pool, whose deadline has passed."
  @spec error(String.t(), map, Snakepit.pool()) :: Error.t()
  def error(command, options, pool), do: error(deadline_passed(options), command, options, pool)

  defp deadline_passed(options),
    do: "the deadline of #{options.timeout} ms passed"

  defp error(what, command, options, pool) do
    %Error{
      reason: :timeout,
      command: command,
      request_id: options.request_id,
      pool: pool,
      message: "#{what} #{cause(pool)}",
      details: %{queued: false}
    }
  end

  defp cause({_name, node}) do
    "and the node #{node} has not answered for another #{@grace} ms: it is overloaded, or the connection to it stands " <>
      "still"
  end

  defp cause(_pool) do
    "while the native library's thread was blocked: the machine is overloaded, or this is a bug to report"
  end

  # A relay waits itself for the other node.
  defp longer(timeout, {_name, _node}) when is_integer(timeout), do: timeout + @grace
  defp longer(timeout, _pool), do: timeout

  # nil: the pool's, on its node.
  defp late(none) when none in [:infinity, nil], do: :infinity
  defp late(timeout), do: min(timeout + @grace, @longest)

  defp now, do: System.monotonic_time(:millisecond)
end
