defmodule Snakepit.Pool.HealthCheck do
  @moduledoc false
  # The periodic question whether a worker is alive. One question at a time is on its way; each
  # interval that passes without its answer is a miss, and any answer makes good for all of them.

  defstruct [:interval, :allowed, :pending, missed: 0]

  def new(options) do
    schedule(%__MODULE__{interval: options.health_interval, allowed: options.health_misses})
  end

  @doc "To be called on `:check_health`; `ask` gets a timeout and returns what the answer is known by."
  def tick(%{pending: nil} = check, ask),
    do: {:ok, schedule(%{check | pending: ask.(check.interval * (check.allowed + 1))})}

  def tick(check, _ask), do: miss(schedule(check))

  def answered(check), do: %{check | pending: nil, missed: 0}

  def failed(check), do: miss(%{check | pending: nil})

  defp miss(%{missed: missed, allowed: allowed} = check) when missed + 1 >= allowed,
    do: {:dead, %{check | missed: missed + 1}}

  defp miss(check), do: {:missed, %{check | missed: check.missed + 1}}

  defp schedule(%{interval: :infinity} = check), do: check

  defp schedule(check) do
    Process.send_after(self(), :check_health, check.interval)
    check
  end
end
