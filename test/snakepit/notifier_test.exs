defmodule Snakepit.Pool.NotifierTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Snakepit.Pool.Notifier

  setup context do
    %{pool: context.test}
  end

  # Its handler waits until it is told to continue.
  defp block(pool) do
    test = self()

    Notifier.run(pool, fn ->
      send(test, {:at, self()})
      receive(do: (:go_on -> :ok))
    end)

    assert_receive {:at, notifier}
    notifier
  end

  test "without a notifier the caller emits", %{pool: pool} do
    Notifier.run(pool, fn -> send(self(), :emitted) end)
    assert_received :emitted
  end

  test "emits in order, even if a handler raises, and emits the rest when it stops", %{pool: pool} do
    start_supervised!({Notifier, pool})
    notifier = block(pool)
    test = self()

    log =
      capture_log(fn ->
        Notifier.run(pool, fn -> raise "boom" end)
        for n <- 1..3, do: Notifier.run(pool, fn -> send(test, {n, self()}) end)
        send(notifier, :go_on)
        stop_supervised!(Notifier)
      end)

    assert log =~ "boom"

    assert [{1, ^notifier}, {2, ^notifier}, {3, ^notifier}] =
             for(_ <- 1..3, do: receive(do: ({n, pid} -> {n, pid})))

    assert :persistent_term.get({Notifier, pool}, nil) == nil
  end

  test "keeps no more events than its bound, and reports how many it has dropped", %{pool: pool} do
    start_supervised!({Notifier, pool})
    notifier = block(pool)
    emitted = :counters.new(1, [])

    log =
      capture_log(fn ->
        for _ <- 1..10_005, do: Notifier.run(pool, fn -> :counters.add(emitted, 1, 1) end)
        send(notifier, :go_on)
        stop_supervised!(Notifier)
      end)

    assert :counters.get(emitted, 1) == 10_000
    assert log =~ "5 telemetry events of the pool #{inspect(pool)} were dropped"
  end
end
