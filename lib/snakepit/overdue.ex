defmodule Snakepit.Overdue do
  @moduledoc false
  # The native library enforces deadlines. If its threads stand still, the waiting process enforces them
  # itself, one second later.

  alias Snakepit.{Error, Native}

  # How long to wait for the end of a call after its deadline, in ms.
  @grace 1_000
  # The longest wait of a receive, in ms.
  @longest 4_294_967_295

  # The limits of the waits for a stream's events: the time of its deadline, and the timeouts for the first
  # chunk, nil once an event has come, and for each further chunk.
  defstruct [:until, :first, :idle, :command, :options, :pool]

  @doc "How long to wait for the reply to a call, in ms."
  @spec wait(map) :: timeout
  def wait(options), do: late(options.timeout)

  @doc "When that wait ends, for a process that gets other messages meanwhile."
  @spec until(map) :: integer | :infinity
  def until(options), do: with(wait when is_integer(wait) <- wait(options), do: now() + wait)

  @doc "How long to wait until then, in ms."
  @spec left(integer | :infinity) :: timeout
  def left(:infinity), do: :infinity
  def left(until), do: max(until - now(), 0)

  @doc """
  Cancels a call whose reply has not come in that time. Returns the reply if it has come in the last moment,
  else the error. Nothing of the call comes after it.
  """
  def give_up(handle, ref, command, options),
    do: end_call(handle, ref, error(deadline_passed(options), command, options))

  @doc "Returns the limits of a stream. `pool` is named in errors."
  def limits(command, options, pool) do
    %__MODULE__{
      until: until(options),
      first: options.first_chunk_timeout,
      idle: options.idle_timeout,
      command: command,
      options: options,
      pool: pool
    }
  end

  @doc "How long to wait for a stream's next event, in ms."
  @spec wait_for_event(%__MODULE__{} | nil) :: timeout
  # Another process enforces them.
  def wait_for_event(nil), do: :infinity

  def wait_for_event(limits) do
    # An atom is greater than a number.
    min(left(limits.until), late(limits.first || limits.idle))
  end

  @doc "As `give_up/4`, for a stream."
  def give_up(handle, ref, limits), do: end_call(handle, ref, stream_error(limits))

  @doc "Cancels a call whose reply nobody wants. Nothing of the call comes after it."
  @spec cancel(reference, term) :: :ok
  def cancel(handle, ref) do
    end_call(handle, ref, nil)
    :ok
  end

  # After the NIF has returned, nothing more is sent.
  defp end_call(handle, ref, error) do
    Native.cancel(handle)

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

    %{error(what, command, options) | pool: limits.pool}
  end

  defp deadline_passed(options),
    do: "the deadline of #{options.timeout} ms passed"

  defp error(what, command, options) do
    %Error{
      reason: :timeout,
      command: command,
      request_id: options.request_id,
      message:
        "#{what} while the native library's thread was blocked: the machine is overloaded, or this is a " <>
          "bug to report",
      details: %{queued: false}
    }
  end

  defp late(:infinity), do: :infinity
  defp late(timeout), do: min(timeout + @grace, @longest)

  defp now, do: System.monotonic_time(:millisecond)
end
