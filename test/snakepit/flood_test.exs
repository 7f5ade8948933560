defmodule Snakepit.FloodTest do
  # Not async: Logger belongs to the other tests as well.
  use ExUnit.Case

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Pool.Registry
  alias Snakepit.Test.Log

  @moduletag :tmp_dir
  @commands [class: "output_commands:OutputCommands", paths: ["test/support/python"]]
  @patience 60_000

  for {way, options} <- ways() do
    describe "a worker (#{way})" do
      @options [adapter_args: @commands] ++ options

      test "that prints without end fills no memory and delays nothing", %{tmp_dir: dir} do
        started = Path.join(dir, "started")
        # A thread that prints without end keeps some workers from ending on their own.
        times = [shutdown_timeout: 1_000, kill_grace: 1_000]
        pool = start_pool!([max_concurrency: 2] ++ times ++ @options)
        {:ok, [%{pid: worker}]} = workers(pool)

        Log.follow(pool)

        capture_log(fn ->
          {:ok, _} = Snakepit.execute("flood", %{started: started}, pool: pool)
          await_drops(pool)

          for _ <- 1..20 do
            assert {:ok, _} = Snakepit.execute("pid", %{}, pool: pool, timeout: @patience)
            assert {:message_queue_len, waiting} = Process.info(worker, :message_queue_len)
            assert waiting < 100
          end

          # On a slow machine not always within the time that `health/1` waits.
          eventually(fn -> match?({:ok, %{healthy: true}}, Snakepit.health(pool)) end)
          :ok = stop_supervised({Snakepit.Pool, pool})
        end)
      end
    end
  end

  defp workers(pool) do
    {:ok, %{manager: manager}} = Registry.fetch(pool)
    {:ok, GenServer.call(manager, :overview).workers}
  end

  defp await_drops(pool) do
    receive do
      {:logged, ^pool, level, text} ->
        if text =~ "lines dropped" do
          assert level == :warning
          assert text =~ ~r/\[:#{pool}\/1\] [\d,]+ lines dropped/
        else
          await_drops(pool)
        end
    after
      @patience -> flunk("no line was dropped")
    end
  end
end
