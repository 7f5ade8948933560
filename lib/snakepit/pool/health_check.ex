defmodule Snakepit.Pool.HealthCheck do
  @moduledoc false
  # The periodic question whether a worker is alive. One question at a time is on its way; each
  # interval that passes without its answer is a miss, and any answer makes good for all of them.

  require Logger

  alias Snakepit.Telemetry

  defstruct [:worker_id, :pool, :interval, :allowed, :pending, missed: 0]

  def new(worker_id, options) do
    schedule(%__MODULE__{
      worker_id: worker_id,
      pool: options.name,
      interval: options.health_interval,
      allowed: options.health_misses
    })
  end

  @doc """
  To be called on `:check_health`. `ask` gets a timeout and returns what the answer is known by. As all
  here it returns `{:ok, check}`, or `{:dead, why}` once the worker has missed too many.
  """
  def tick(%{pending: nil} = check, ask),
    do: {:ok, schedule(%{check | pending: ask.(check.interval * (check.allowed + 1))})}

  def tick(check, _ask), do: miss(schedule(check), "it did not answer")

  def answered(check, true), do: {:ok, %{check | pending: nil, missed: 0}}

  def answered(check, _healthy),
    do: miss(%{check | pending: nil}, "it says that it is not healthy")

  def failed(check, why), do: miss(%{check | pending: nil}, why)

  defp miss(check, why) do
    missed = check.missed + 1
    metadata = %{pool: check.pool, worker_id: check.worker_id, why: why}
    Telemetry.health_failed(missed, metadata)
    Logger.warning("worker #{check.worker_id} missed a health check (#{missed}): #{why}")

    if missed < check.allowed,
      do: {:ok, %{check | missed: missed}},
      else: {:dead, "it missed #{missed} health checks in a row (:health_misses): #{why}"}
  end

  defp schedule(%{interval: :infinity} = check), do: check

  defp schedule(check) do
    Process.send_after(self(), :check_health, check.interval)
    check
  end
end
