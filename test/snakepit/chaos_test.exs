defmodule Snakepit.ChaosTest do
  # Workers that die under load: every call is answered once, rightly or with an error.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error

  @calls 10_000
  @callers 200
  @size 8
  @kill_every 200
  @patience 120_000

  for adapter <- [Snakepit.Adapters.GRPCPython, Snakepit.Adapters.GenericPythonV2] do
    @tag timeout: 300_000
    test "#{@calls} calls, a worker killed every #{@kill_every} ms: #{inspect(adapter)}" do
      :rand.seed(:exsss, {1, 2, 3})
      options = [adapter: unquote(adapter), size: @size, max_queue: @callers]
      timeouts = [timeout: @patience, queue_timeout: @patience, restart_backoff: {50, 500}]
      pool = start_pool!(options ++ timeouts)
      killer = Task.async(fn -> kill_at_random(pool, 0) end)

      answers =
        1..@callers
        |> Enum.map(fn caller ->
          Task.async(fn -> for call <- 1..div(@calls, @callers), do: call(pool, caller, call) end)
        end)
        |> Task.await_many(@patience)
        |> List.flatten()

      send(killer.pid, :stop)
      kills = Task.await(killer, @patience)
      tally = Enum.frequencies(answers)

      assert length(answers) == @calls
      assert Map.keys(tally) -- [:right, :worker_crashed] == []
      assert kills > 0
      # No more than one call runs on a worker, and fails with it.
      assert Map.get(tally, :worker_crashed, 0) <= kills
      eventually(fn -> Snakepit.Pool.await_ready(pool, @patience) == :ok end, @patience)
      eventually(fn -> {0, List.duplicate(0, @size)} == in_flight(pool) end)
    end
  end

  defp call(pool, caller, call) do
    n = caller * 1_000_000 + call

    answer =
      case Snakepit.execute("echo", %{n: n}, pool: pool) do
        {:ok, %{"n" => ^n}} -> :right
        {:error, %Error{reason: reason}} -> reason
      end

    # A second answer would be here.
    assert {:messages, []} = Process.info(self(), :messages)
    answer
  end

  defp kill_at_random(pool, kills) do
    receive do
      :stop -> kills
    after
      @kill_every ->
        case os_pids(pool) do
          [] ->
            kill_at_random(pool, kills)

          os_pids ->
            System.cmd("kill", ["-KILL", to_string(Enum.random(os_pids))], stderr_to_stdout: true)
            kill_at_random(pool, kills + 1)
        end
    end
  end

  defp in_flight(pool) do
    {queued, workers} = pool |> native() |> Snakepit.GRPC.Native.pool_snapshot()
    {queued, for({_key, in_flight, _draining} <- workers, do: in_flight)}
  end
end
