defmodule Snakepit.Pool.HealthCheck do
  @moduledoc false
  # Checks periodically whether a worker is alive. At most one check is pending; each interval
  # that passes without its answer is a miss, and any answer resets the misses.

  require Logger

  alias Snakepit.{Error, Telemetry}

  @silent "it did not answer"

  # A command that computes lets other threads run every few milliseconds.
  @stuck_ms 1_000
  # The longest deadline, in ms.
  @longest 4_294_967_295

  # `:name` is that of the worker in messages.
  defstruct [:worker_id, :name, :pool, :interval, :allowed, :pending, missed: 0]

  def new(worker_id, options) do
    schedule(%__MODULE__{
      worker_id: worker_id,
      name: "#{if options.endpoints, do: "endpoint", else: "worker"} #{worker_id}",
      pool: options.name,
      interval: options.health_interval,
      allowed: options.health_misses
    })
  end

  @doc """
  Call it on `:check_health`. `ask` takes a timeout and returns a key by which the answer is
  recognized. Like all functions here it returns `{:ok, check}`, or `{:dead, why}` once the worker
  has missed too many checks.
  """
  def tick(%{pending: nil} = check, ask),
    do: {:ok, schedule(%{check | pending: ask.(ask_timeout(check))})}

  def tick(check, _ask), do: miss(schedule(check), @silent)

  # Longer than it takes to miss too many checks.
  defp ask_timeout(check), do: min(check.interval * (check.allowed + 1), @longest)

  @doc "Call it on `:check_health` while the worker is not to be checked."
  def skip(check), do: schedule(check)

  @doc "The worker was asked meanwhile: `ref` is the key of the answer."
  def asked(check, ref), do: %{check | pending: ref}

  @doc "The worker has a new connection: earlier misses do not count."
  def reset(check), do: %{check | pending: nil, missed: 0}

  def answered(check, %{"healthy" => false}),
    do: miss(%{check | pending: nil}, "it reported that it is not healthy")

  def answered(check, health) do
    report_stuck(check, health["python_stuck_ms"] || 0)
    {:ok, %{check | pending: nil, missed: 0}}
  end

  def failed(check, %Error{reason: :timeout}), do: miss(%{check | pending: nil}, @silent)
  def failed(check, %Error{message: why}), do: miss(%{check | pending: nil}, why)

  # The worker is alive, and what it does may be correct: this only reports it.
  defp report_stuck(_check, ms) when ms < @stuck_ms, do: :ok

  defp report_stuck(check, ms) do
    Logger.warning(
      "#{check.name} has let no other Python thread run for #{ms} ms: a command holds " <>
        "Python's lock in code that is not Python"
    )

    Telemetry.health_stuck(ms, metadata(check))
  end

  defp miss(check, why) do
    missed = check.missed + 1
    Telemetry.health_failed(missed, Map.put(metadata(check), :why, why))
    Logger.warning("#{check.name} missed a health check (#{missed}): #{why}")

    if missed < check.allowed,
      do: {:ok, %{check | missed: missed}},
      else: {:dead, "it missed #{missed} health checks in a row (:health_misses): #{why}"}
  end

  defp metadata(check), do: %{pool: check.pool, worker_id: check.worker_id}

  defp schedule(%{interval: :infinity} = check), do: check

  defp schedule(check) do
    Process.send_after(self(), :check_health, check.interval)
    check
  end
end
