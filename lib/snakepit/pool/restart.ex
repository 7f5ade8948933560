defmodule Snakepit.Pool.Restart do
  @moduledoc false
  # A rolling restart of a pool: which of its slots has its worker replaced now, and which are left. The
  # manager replaces them.

  alias Snakepit.{Error, Telemetry}

  require Logger

  defstruct [:pool, :why, :started, :slot, callers: [], left: [], replaced: 0]

  @doc "Of those who asked for one, each with the reason, the restart of the slots 1 to `size`."
  def new(pool, asked, size) do
    {callers, reasons} = Enum.unzip(asked)

    %__MODULE__{
      pool: pool,
      why: reasons |> Enum.uniq() |> Enum.join("; "),
      started: System.monotonic_time(),
      callers: callers,
      left: Enum.to_list(1..size)
    }
  end

  @doc "Goes on to the next slot; nil where none is left."
  def next(%{left: []}), do: nil

  def next(%{left: [slot | left], slot: before, replaced: replaced} = restart),
    do: %{
      restart
      | slot: slot,
        left: left,
        replaced: if(before, do: replaced + 1, else: replaced)
    }

  @doc "Tells that every worker was replaced."
  def done(restart) do
    restart = %{restart | replaced: restart.replaced + 1}
    workers = if restart.replaced == 1, do: "its worker", else: "its #{restart.replaced} workers"
    Logger.info("the pool #{inspect(restart.pool)} has replaced #{workers}: #{restart.why}")
    tell(restart, :ok, nil)
  end

  @doc "Tells why no further worker is replaced."
  def failed(restart, message) do
    all = restart.replaced + 1 + length(restart.left)

    kept =
      if all == 1, do: "the worker stays as it is", else: "the other workers stay as they are"

    text =
      "the restart has ended after #{restart.replaced} of #{all} workers, and #{kept}: #{message}"

    error = %Error{reason: :worker_start_failed, pool: restart.pool, message: text}
    tell(restart, {:error, error}, error)
  end

  defp tell(restart, reply, error) do
    Enum.each(restart.callers, &GenServer.reply(&1, reply))
    duration = System.monotonic_time() - restart.started
    measurements = %{duration: duration, replaced: restart.replaced}
    metadata = %{pool: restart.pool, why: restart.why, error: error}
    Telemetry.pool_restarted(measurements, metadata)
  end
end
