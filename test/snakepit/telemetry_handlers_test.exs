for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "TelemetryHandlersOver#{kind}Test") do
    # Whatever its event, a handler may query the pool, and a handler that is not for a call may
    # also call it.
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.{Error, Telemetry}

    @moduletag :tmp_dir
    @way way

    setup do
      me = self()
      name = :"pool#{System.pid()}_#{System.unique_integer([:positive])}"

      for event <- Telemetry.events(),
          do: :ok = :telemetry.attach({me, event}, event, &__MODULE__.ask/4, {me, name})

      on_exit(fn -> for event <- Telemetry.events(), do: :telemetry.detach({me, event}) end)
      %{name: name}
    end

    def ask([_, group, name], _measurements, %{pool: pool} = metadata, {test, pool}) do
      of_call = group in [:call, :queue] and name != :cancelled

      # The handler's own call, which must not call again.
      unless of_call and metadata[:command] in ["ping", nil] do
        asked =
          for ask <- [:stats, :health, :list_workers, :info], do: apply(Snakepit, ask, [pool])

        called = if of_call, do: {:ok, nil}, else: Snakepit.execute("ping", %{}, pool: pool)
        send(test, {[group, name], self(), asked ++ [called]})
      end
    end

    def ask(_event, _measurements, _metadata, _config), do: :ok

    defp assert_answered(event) do
      assert_receive {^event, handler, answers}
      for answer <- answers, do: assert({:ok, _} = answer)
      handler
    end

    test "a handler may call its pool in each event", %{name: pool, tmp_dir: dir} do
      start_pool!([name: pool, size: 2, health_interval: 600_000, health_misses: 1] ++ @way)
      notifier = assert_answered([:worker, :started])
      assert assert_answered([:worker, :ready]) == notifier

      {:ok, %{"pid" => os_pid}} = Snakepit.execute_in_session("s", "tally", %{}, pool: pool)
      assert assert_answered([:call, :start]) == self()
      assert assert_answered([:call, :stop]) == self()
      assert assert_answered([:session, :created]) == notifier

      args = %{seen: Path.join(dir, "seen"), started: Path.join(dir, "started")}
      run_out!("wait_cancelled", args, pool: pool)
      assert assert_answered([:call, :exception]) == self()
      assert assert_answered([:call, :cancelled]) == notifier

      signal("KILL", os_pid)
      for name <- [:stopped, :restarted], do: assert(assert_answered([:worker, name]) == notifier)
      assert assert_answered([:session, :lost]) == notifier

      eventually(fn -> await_ready(pool) == :ok end)
      [worker | _] = worker_pids(pool)
      {:ok, [%{os_pid: os_pid} | _]} = Snakepit.list_workers(pool)
      signal("STOP", os_pid)
      # The question, and one interval without an answer.
      for _ <- 0..1, do: send(worker, :check_health)
      assert assert_answered([:health, :failed]) == notifier
      assert assert_answered([:worker, :killed]) == notifier

      eventually(fn -> await_ready(pool) == :ok end)
      stop_supervised!({Snakepit.Pool, pool})
      # Its last handlers find it stopped, and report that.
      assert_received_stopped(notifier)
    end

    defp assert_received_stopped(notifier) do
      assert_receive {[:worker, :stopped], ^notifier, answers}

      unless Enum.all?(answers, &match?({:error, %Error{reason: :pool_stopped}}, &1)),
        do: assert_received_stopped(notifier)
    end
  end
end
