defmodule Snakepit.Faults.Servers do
  @moduledoc false
  # Lying workers: a server of the contract sends what a call's command names. Each call ends with
  # a value or an error, the BEAM does not grow, and calls of another pool continue.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.OS

  defmodule Adapter do
    @moduledoc false
    @behaviour Snakepit.Adapter

    @impl true
    def uses_grpc?, do: true

    @impl true
    def executable_path, do: Path.expand(".venv/bin/python")

    @impl true
    def script_path, do: Path.expand("faults/python/lying_calls.py")
  end

  @growth_mb 300
  # What a worker may answer on the RPC that carries unary calls.
  @lies ~w(unknown_calls twice wrong_number never not_started_for_ever garbage garbage_frame no_frame
           early_end status_13 status_999 huge start_journal_file start_journal_zero start_journal_fifo
           start_journal_many start_journal_gone handler_time wrong_kinds)
  @streams ~w(index_backwards index_repeated index_huge after_final final_twice no_chunk status_13
              status_999 error_then_chunks huge)

  def trials do
    [
      %{
        name: "servers",
        about:
          "lying servers: false replies, start journals, chunks, statuses, sizes and system_info",
        short: true,
        run: &lie/1
      }
    ]
  end

  # Each of these ends a worker, and so costs the start of the next one.
  @long ~w(wrong_number never garbage no_frame early_end status_13 status_999 huge start_journal_file
           start_journal_many start_journal_gone)

  defp lie(what) do
    lies = times(what, @lies -- @long, @lies)
    {honest, supervisor} = start_pool!(size: 1)

    lying = [
      size: 1,
      adapter: Adapter,
      adapter_args: [],
      max_message_size: 1_000_000,
      kill_grace: 500
    ]

    env = %{"PYTHONPATH" => Path.expand("python"), "FAULTS_FOLDER" => System.tmp_dir!()}
    {liar, liars} = start_pool!([env: env] ++ lying)
    before = OS.rss(OS.own_pid())
    watch = OS.watch([OS.own_pid()])
    beside = Task.async(fn -> beside(honest, []) end)

    answers =
      for lie <- lies do
        ready!(liar)
        {lie, unary(liar, lie)}
      end

    streams =
      for lie <- @streams do
        ready!(liar)
        {lie, stream(liar, lie)}
      end

    ready!(liar)
    infos = for _ <- 1..20, do: {elem(Snakepit.info(liar), 0), elem(Snakepit.health(liar), 0)}

    must(
      Enum.all?(infos, &(&1 == {:ok, :ok})),
      "1,000 system_info entries: #{inspect(Enum.uniq(infos))}"
    )

    send(beside.pid, :stop)
    times = Task.await(beside, 120_000)
    growth = OS.peaks(watch)[OS.own_pid()] - before
    figure("unary", shown(answers))
    figure("streams", shown(streams))
    figure("#{length(times)} concurrent calls, max", "#{percentile(times, 100)} ms")
    figure("the BEAM's memory grew by", "#{Float.round(growth, 1)} MB")
    must(growth < @growth_mb, "servers that lie grew the BEAM by #{round(growth)} MB")
    stop_pools([{honest, supervisor}, {liar, liars}])
  end

  defp shown(outcomes) do
    outcomes
    |> Enum.frequencies_by(&elem(&1, 1))
    |> Enum.map_join(", ", fn {outcome, count} -> "#{count} #{outcome}" end)
  end

  # Whatever the server answers, the call ends, and does not claim what the server cannot know.
  defp unary(pool, lie) do
    options = [pool: pool, timeout: 1_500, queue_timeout: 60_000]
    task = Task.async(fn -> Snakepit.execute(lie, %{}, options) end)
    [outcome] = ended(task, lie)
    IO.puts("#{lie}: #{inspect(outcome)}")
    outcome
  end

  defp stream(pool, lie) do
    options = [pool: pool, timeout: 1_500, queue_timeout: 60_000]
    chunks = :counters.new(1, [])

    task =
      Task.async(fn ->
        Snakepit.execute_stream(lie, %{}, fn _ -> :counters.add(chunks, 1, 1) end, options)
      end)

    [outcome] = ended(task, lie)
    IO.puts("stream of #{lie}: #{inspect(outcome)}, #{:counters.get(chunks, 1)} chunks")
    wrong = lie in ~w(index_backwards index_huge after_final final_twice) and outcome == :ok
    must(not wrong, "a stream of #{lie} was taken for a sound one")
    outcome
  end

  defp ended(task, lie) do
    case await_all([task], "calls of #{lie}") do
      [result] -> [outcome(result)]
      [] -> [:hangs]
    end
  end

  defp beside(pool, times) do
    receive do
      :stop -> times
    after
      1 ->
        {time, result} =
          :timer.tc(fn -> Snakepit.execute("add", %{a: 1, b: 2}, pool: pool, timeout: 60_000) end)

        must(
          match?({:ok, %{"result" => 3}}, result),
          "a call of another pool ended with #{inspect(outcome(result))}"
        )

        beside(pool, [time | times])
    end
  end
end
