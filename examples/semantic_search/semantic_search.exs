# mix run examples/semantic_search/semantic_search.exs ["a question"]
#
# Searches Snakepit's own guides by meaning. Each worker has a model of word embeddings, and an index in
# memory. ../README.md says what to install.

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Search,
    size: 2,
    startup_timeout: 120_000,
    timeout: 120_000,
    queue_timeout: 120_000,
    adapter_args: [
      class: "semantic_search:SemanticSearch",
      paths: [__DIR__],
      init: %{folder: Path.expand("../../guides", __DIR__)}
    ],
    python: Path.join(__DIR__, "../.venv/bin/python"),
    # A device for each worker. This model runs on the processor, and only reports it.
    env: fn slot -> %{"CUDA_VISIBLE_DEVICES" => Integer.to_string(slot)} end,
    # Each worker is replaced after 450 to 600 calls, without failing one.
    max_requests: 600
  )

:ok = Snakepit.Pool.await_ready(Search, 120_000)

{:ok, %{"documents" => documents, "paragraphs" => count}} =
  Snakepit.execute("size", %{}, pool: Search)

IO.puts("#{count} paragraphs of #{documents} guides\n")

questions =
  case System.argv() do
    [] -> ["What happens when a process is killed?", "Where do printed lines appear?"]
    given -> given
  end

for question <- questions do
  IO.puts(question)
  {:ok, %{"found" => found}} = Snakepit.execute("search", %{question: question}, pool: Search)

  for %{"document" => document, "score" => score, "text" => text} <- found do
    score = :erlang.float_to_binary(score, decimals: 2)
    IO.puts("  #{score} #{document}: #{String.slice(text, 0, 70)}")
  end

  IO.puts("")
end

# Many callers with one question each: the workers answer up to 32 of them together.
ask = fn count ->
  1..count
  |> Task.async_stream(
    fn number ->
      args = %{question: "What does option number #{number} do?", top: 1}
      {:ok, answer} = Snakepit.execute("search", args, pool: Search)
      answer
    end,
    max_concurrency: 64,
    timeout: :infinity
  )
  |> Enum.map(fn {:ok, answer} -> answer end)
end

{time, answers} = :timer.tc(fn -> ask.(2_000) end)
most = answers |> Enum.map(& &1["batch"]) |> Enum.max()
devices = answers |> Enum.map(& &1["device"]) |> Enum.uniq() |> Enum.sort() |> Enum.join(", ")

IO.puts("""
2,000 questions of 64 callers took #{div(time, 1_000)} ms
questions that were answered together: up to #{most}
devices: #{devices}\
""")

# The replacements load the model while the workers go on.
replaced = fn ->
  {:ok, %{recycled: recycled}} = Snakepit.stats(Search)
  recycled
end

Stream.repeatedly(fn -> ask.(64) end) |> Enum.find(fn _answers -> replaced.() > 0 end)
IO.puts("workers that were replaced meanwhile: #{replaced.()}")
