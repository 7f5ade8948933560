# mix run bench/batches.exs [--rounds 5] [--workers 2] [--calls 10000]
#
# Measures commands that take batches, on the model of examples/semantic_search, which is in its package: what 512
# sentences take as single calls from 64 callers, as single calls from a task each, of which 64 run at once, and as batches
# of 32 that the caller has made, in turns on the same pool; and what a lone call waits. Then makes many calls of which 1 %
# fail and 1 % are cancelled, and checks that each caller gets its own answer. Exits with status 1 if the single calls of
# 64 callers take more than 1.2 times as long as the batches, or if an answer is wrong.
defmodule Snakepit.BatchBench do
  @here __DIR__
  @example Path.expand("../examples/semantic_search", @here)
  @sentences 512
  @batch 32
  @callers 64
  @bound 1.2

  def run(args) do
    {options, _, _} =
      OptionParser.parse(args, strict: [rounds: :integer, workers: :integer, calls: :integer])

    Logger.configure(level: :error)

    good = [
      embed(Keyword.get(options, :rounds, 5), Keyword.get(options, :workers, 2)),
      own_answers(Keyword.get(options, :calls, 10_000))
    ]

    unless Enum.all?(good), do: System.halt(1)
  end

  defp embed(rounds, workers) do
    pool =
      start(
        size: workers,
        startup_timeout: 120_000,
        timeout: 120_000,
        adapter_args: [class: "semantic_search:SemanticSearch", paths: [@example]],
        python: Path.expand("../.venv/bin/python", @example)
      )

    sentences = sentences()
    # Each way once, so that both find the workers warm.
    ways = [&by_hand/2, &single/2, &tasks/2]
    for way <- ways, do: way.(pool, sentences)

    times =
      for _ <- 1..rounds do
        [{hand, vectors}, {single, same}, {tasks, also}] =
          for way <- ways, do: :timer.tc(fn -> way.(pool, sentences) end)

        true = close?(vectors, same) and close?(vectors, also)
        {hand, single, tasks}
      end

    [hand, single, tasks] = for at <- 0..2, do: median(times, at)
    ratio = single / hand
    say("#{@sentences} sentences, batches of #{@batch} by hand", ms(hand))
    say("the same by single calls of #{@callers} callers", ms(single))
    say("ratio, at most #{@bound}", Float.round(ratio, 2))
    say("the same by single calls of tasks, #{@callers} at once", ms(tasks))
    say("ratio", Float.round(tasks / hand, 2))
    lone(pool, hd(sentences))
    stop(pool)
    ratio <= @bound
  end

  defp by_hand(pool, sentences) do
    sentences
    |> Enum.chunk_every(@batch)
    |> Task.async_stream(&call!(pool, "embed", %{texts: &1}), options(@callers))
    |> Enum.flat_map(fn {:ok, tensor} -> rows(tensor) end)
  end

  # Each caller makes its calls one after the other.
  defp single(pool, sentences) do
    sentences
    |> Enum.chunk_every(div(@sentences, @callers))
    |> Enum.map(fn own ->
      Task.async(fn -> for each <- own, do: call!(pool, "embed_one", %{text: each}).data end)
    end)
    |> Task.await_many(:infinity)
    |> Enum.concat()
  end

  defp tasks(pool, sentences) do
    sentences
    |> Task.async_stream(&call!(pool, "embed_one", %{text: &1}), options(@callers))
    |> Enum.map(fn {:ok, tensor} -> tensor.data end)
  end

  defp rows(%{shape: {count, _width}, data: data}) do
    size = div(byte_size(data), count)
    for <<row::binary-size(size) <- data>>, do: row
  end

  defp close?(some, others) do
    floats = fn data -> for <<float::float-32-native <- data>>, do: float end

    Enum.zip(some, others)
    |> Enum.all?(fn {one, other} ->
      Enum.zip(floats.(one), floats.(other)) |> Enum.all?(fn {a, b} -> abs(a - b) < 1.0e-4 end)
    end)
  end

  # A call to an idle worker, as a batch and as a command without batches.
  defp lone(pool, sentence) do
    time = fn command, args ->
      for(_ <- 1..200, do: {elem(:timer.tc(fn -> call!(pool, command, args) end), 0)})
      |> median(0)
    end

    say("a lone call of the command with batches", us(time.("embed_one", %{text: sentence})))
    say("of the command without", us(time.("embed", %{texts: [sentence]})))
  end

  defp own_answers(calls) do
    pool =
      start(
        size: 2,
        adapter_args: [
          class: "batch_commands:BatchCommands",
          paths: [Path.expand("../test/support/python", @here)]
        ]
      )

    counts =
      1..calls
      |> Task.async_stream(&answer(pool, &1), options(@callers))
      |> Enum.frequencies_by(fn {:ok, kind} -> kind end)

    stop(pool)
    say("of #{calls} calls, 1 % failing and 1 % cancelled", inspect(counts))
    Map.get(counts, :wrong, 0) == 0
  end

  # 1 % of the callers are killed at some time.
  defp answer(pool, n) when rem(n, 100) == 50 do
    {pid, ref} =
      spawn_monitor(fn -> Snakepit.execute("many", %{n: n, fails: false}, pool: pool) end)

    Process.sleep(rem(n, 5))
    Process.exit(pid, :kill)

    receive do
      {:DOWN, ^ref, :process, _pid, _reason} -> :cancelled
    end
  end

  defp answer(pool, n) do
    fails = rem(n, 100) == 0
    text = to_string(n)

    case Snakepit.execute("many", %{n: n, fails: fails}, pool: pool, timeout: 120_000) do
      {:ok, %{"n" => ^n}} when not fails -> :answered
      {:error, %{reason: :python_error, details: %{message: ^text}}} when fails -> :failed
      _other -> :wrong
    end
  end

  defp sentences do
    found =
      for path <- Enum.sort(Path.wildcard(Path.expand("../guides/*.md", @here))),
          sentence <- String.split(File.read!(path), ~r/(?<=[.!?])\s/),
          length(String.split(sentence)) >= 8,
          do: String.replace(sentence, "\n", " ")

    found |> Stream.cycle() |> Enum.take(@sentences)
  end

  defp call!(pool, command, args) do
    {:ok, %{"result" => result}} = Snakepit.execute(command, args, pool: pool)
    result
  end

  defp start(options) do
    name = :"batches#{System.unique_integer([:positive])}"
    {:ok, _} = Snakepit.Pool.start_link([name: name, await_ready: true] ++ options)
    name
  end

  defp stop(pool), do: Supervisor.stop(pool)
  defp options(callers), do: [max_concurrency: callers, timeout: :infinity]

  defp median(times, at) do
    sorted = times |> Enum.map(&elem(&1, at)) |> Enum.sort()
    Enum.at(sorted, div(length(sorted), 2))
  end

  defp ms(time), do: "#{Float.round(time / 1000, 1)} ms"
  defp us(time), do: "#{round(time)} us"
  defp say(what, value), do: IO.puts("#{String.pad_trailing(what, 52)} #{value}")
end

Snakepit.BatchBench.run(System.argv())
