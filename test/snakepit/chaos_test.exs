defmodule Snakepit.ChaosTest do
  # Workers die under load: every call is answered once, correctly or with an error.
  use ExUnit.Case, async: false

  import Snakepit.Test.Pools

  alias Snakepit.Error

  @calls 10_000
  @callers 200
  @size 8
  @kill_every 200
  @kills 5
  @replies_together 16
  @patience 2 * patience()

  for adapter <- [Snakepit.Adapters.GRPCPython, Snakepit.Adapters.GenericPythonV2] do
    test "at least #{@calls} calls, while a worker is killed every #{@kill_every} ms: #{inspect(adapter)}" do
      :rand.seed(:exsss, {1, 2, 3})
      options = [adapter: unquote(adapter), size: @size, max_queue: @callers]
      timeouts = [timeout: @patience, queue_timeout: @patience, restart_backoff: {50, 500}]
      pool = start_pool!(options ++ timeouts)
      kills = :counters.new(1, [])
      killer = Task.async(fn -> kill_at_random(pool, kills) end)

      answers =
        1..@callers
        |> Enum.map(fn caller -> Task.async(fn -> calls(pool, caller, kills) end) end)
        |> Task.await_many(@patience)
        |> List.flatten()

      send(killer.pid, :stop)
      Task.await(killer, @patience)
      kills = :counters.get(kills, 1)
      tally = Enum.frequencies(answers)

      assert length(answers) >= @calls
      assert Map.keys(tally) -- [:right, :worker_crashed] == []
      # When a worker dies, the call that it runs fails, and so do the calls whose replies were to
      # be sent together.
      assert Map.get(tally, :worker_crashed, 0) <= kills * @replies_together
      eventually(fn -> await_ready(pool) == :ok end)
      eventually(fn -> {0, List.duplicate(0, @size)} == in_flight(pool) end)
    end
  end

  # Its share of the calls, and as many more as it needs to be running during the kills: if calls
  # are fast, the share is finished before the first kill.
  defp calls(pool, caller, kills) do
    Stream.iterate(1, &(&1 + 1))
    |> Stream.take_while(&(&1 <= div(@calls, @callers) or :counters.get(kills, 1) < @kills))
    |> Enum.map(&call(pool, caller, &1))
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
      :stop -> :ok
    after
      @kill_every ->
        with [_ | _] = os_pids <- os_pids(pool) do
          System.cmd("kill", ["-KILL", to_string(Enum.random(os_pids))], stderr_to_stdout: true)
          :counters.add(kills, 1, 1)
        end

        kill_at_random(pool, kills)
    end
  end

  defp in_flight(pool) do
    {queued, workers} = pool |> native() |> Snakepit.Native.pool_snapshot()
    {queued, for({_key, in_flight, _draining} <- workers, do: in_flight)}
  end
end
