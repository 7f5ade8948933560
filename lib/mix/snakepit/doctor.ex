defmodule Mix.Snakepit.Doctor do
  @moduledoc false
  # Makes the checks of `mix snakepit.doctor` in turn, and reports each as soon as it is made.

  alias Mix.Snakepit.Check
  alias Mix.Snakepit.Doctor.{Machine, Pool, Pools}

  @doc """
  Calls `report` with each `Mix.Snakepit.Check` and each heading, a text. Returns how many checks
  have failed. Options: `:pool`, the name of the only pool to check, and `:start`, whether to start
  the project's applications.
  """
  @spec run(keyword, (Check.t() | String.t() -> any)) :: non_neg_integer
  def run(options, report) do
    counter = :counters.new(1, [])

    report = fn result ->
      with %Check{status: :failed} <- result, do: :counters.add(counter, 1, 1)
      report.(result)
    end

    checks = [
      Machine.elixir(),
      Machine.native(),
      Machine.launcher(),
      Machine.temporary_directory()
    ]

    Enum.each(checks, report)
    pools = options |> find(report) |> select(options[:pool], report)
    valid = for pool <- pools, {:ok, options} <- [Pool.options(pool)], do: options
    Enum.each(Machine.limits(valid), report)
    Enum.each(pools, &check(&1, report))
    :counters.get(counter, 1)
  end

  defp find(options, report) do
    {checks, configured} = Pools.configured()
    Enum.each(checks, report)

    # Without a valid configuration no application starts.
    if Keyword.get(options, :start, true) and Enum.all?(checks, &(&1.status == :ok)) do
      {checks, started} = Pools.started()
      Enum.each(checks, report)
      Enum.uniq_by(configured ++ started, &Pools.name/1)
    else
      configured
    end
  end

  defp select([], nil, report) do
    report.(Check.skipped("pools", "none is defined: the built-in commands are tried instead"))
    [[name: :built_in_commands]]
  end

  defp select(pools, nil, _report), do: pools

  defp select(pools, wanted, report) do
    case Enum.filter(pools, &Mix.Snakepit.Pools.named?(Pools.name(&1), wanted)) do
      [] ->
        known = Enum.map_join(pools, ", ", &inspect(Pools.name(&1)))
        known = if known == "", do: "none", else: known
        fix = "pass one of these names, or define the pool"
        report.(Check.failed("pools", "there is no pool #{wanted}; the pools are: #{known}", fix))
        []

      found ->
        found
    end
  end

  defp check(pool, report) do
    report.("\npool #{inspect(Pools.name(pool))}")
    Pool.check(pool, report)
  end
end
