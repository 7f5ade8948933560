defmodule Snakepit.Faults.Clock do
  @moduledoc false
  # The wall clock jumps while calls run. libfaketime fakes it: a test must not change the
  # machine's clock.

  import Snakepit.Faults.Trial

  @libraries ["/usr/lib/faketime/libfaketimeMT.so.1", "/usr/lib/*/faketime/libfaketimeMT.so.1"]

  def trials do
    [
      %{
        name: "clock",
        about: "the workers' wall clock jumps forward and back by ten days during calls",
        short: false,
        run: &jump/1
      }
    ]
  end

  defp jump(what) do
    library =
      case Enum.flat_map(@libraries, &Path.wildcard/1) do
        [library | _] -> library
        [] -> skip("needs libfaketime: apt-get install libfaketime")
      end

    time = Path.join(System.tmp_dir!(), "time")

    env = %{
      "LD_PRELOAD" => library,
      "FAKETIME_TIMESTAMP_FILE" => time,
      "FAKETIME_NO_CACHE" => "1",
      "FAKETIME_DONT_FAKE_MONOTONIC" => "1",
      "DONT_FAKE_MONOTONIC" => "1"
    }

    for {kind, options} <- kinds() do
      File.write!(time, "+0")
      {pool, supervisor} = start_pool!([size: 1, env: env, session_ttl: 600_000] ++ options)
      {:ok, %{"count" => 1}} = tally(pool)

      for {jump, round} <-
            Enum.with_index(times(what, ~w(+10d -10d), ~w(+10d -10d +0 +400d -400d)), 2) do
        [started, until] =
          for name <- ~w(started until),
              do: Path.join(System.tmp_dir!(), "#{kind}#{round}-#{name}")

        args = %{started: started, until: until}

        running =
          Task.async(fn ->
            Snakepit.execute("wait_for_file", args, pool: pool, timeout: 60_000)
          end)

        wait("the call runs", fn -> File.exists?(started) end)
        File.write!(time, jump)
        due = Task.async(fn -> Snakepit.execute("add", %{a: 1}, pool: pool, timeout: 500) end)
        [outcome] = await_all([due], "calls with a deadline") |> Enum.map(&outcome/1)
        must(outcome == :timeout, "#{kind}: a call behind it ended with #{inspect(outcome)}")
        File.touch!(until)
        [outcome] = await_all([running], "calls during a jump") |> Enum.map(&outcome/1)

        must(
          outcome == :ok,
          "#{kind}: a call during a jump by #{jump} ended with #{inspect(outcome)}"
        )

        result = tally(pool)

        must(
          match?({:ok, %{"count" => ^round}}, result),
          "#{kind}: a session after it: #{inspect(outcome(result))}"
        )

        figure("#{kind}, #{jump}:", outcome)
      end

      {:ok, %{healthy: healthy}} = Snakepit.health(pool)
      must(healthy, "#{kind}: the pool is not healthy after its clock jumped")
      stop_pools([{pool, supervisor}])
    end
  end

  defp tally(pool),
    do: Snakepit.execute_in_session("s", "tally", %{}, pool: pool, timeout: 60_000)
end
