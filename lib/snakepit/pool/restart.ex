defmodule Snakepit.Pool.Restart do
  @moduledoc false
  # A rolling restart of a pool: the slot whose worker is being replaced, nil before the first. The
  # manager replaces the workers, from the first to the last.

  alias Snakepit.{Error, Telemetry}

  require Logger

  defstruct [:pool, :why, :started, :callers, :size, :slot]

  @doc "Creates the restart of `size` slots, for all callers who requested one, each with a reason."
  def new(pool, asked, size) do
    {callers, reasons} = Enum.unzip(asked)

    %__MODULE__{
      pool: pool,
      why: reasons |> Enum.uniq() |> Enum.join("; "),
      started: System.monotonic_time(),
      callers: callers,
      size: size
    }
  end

  @doc "Continues with the next slot; nil if none is left."
  def next(%{slot: nil} = restart), do: %{restart | slot: 0}
  def next(%{slot: slot, size: size}) when slot + 1 >= size, do: nil
  def next(restart), do: %{restart | slot: restart.slot + 1}

  @doc "The pool has a smaller size now, or a larger one, whose further workers are new."
  def resize(nil, _size), do: nil
  def resize(restart, size), do: %{restart | size: min(restart.size, size)}

  @doc "Reports that every worker was replaced."
  def done(%{size: size} = restart) do
    workers = if size == 1, do: "its worker", else: "its #{size} workers"
    Logger.info("the pool #{inspect(restart.pool)} has replaced #{workers}: #{restart.why}")
    report(restart, size, :ok, nil)
  end

  @doc "Reports why no further worker is replaced."
  # The workers that are left may run, or wait for their next attempt to start.
  def failed(%{slot: replaced, size: size} = restart, message) do
    text =
      "the restart has ended after #{replaced} of #{size} workers, and changes no other: #{message}"

    error = %Error{reason: :worker_start_failed, pool: restart.pool, message: text}
    report(restart, replaced, {:error, error}, error)
  end

  defp report(restart, replaced, reply, error) do
    Enum.each(restart.callers, &GenServer.reply(&1, reply))
    duration = System.monotonic_time() - restart.started
    measurements = %{duration: duration, replaced: replaced}
    metadata = %{pool: restart.pool, why: restart.why, error: error}
    Telemetry.pool_restarted(measurements, metadata)
  end
end
