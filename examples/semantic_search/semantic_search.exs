# mix run examples/semantic_search/semantic_search.exs ["a question"]
#
# Searches Snakepit's own guides by meaning. Each worker has a model of word embeddings, and an index in
# memory. ../README.md says what to install.

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Search,
    size: 1,
    startup_timeout: 120_000,
    adapter_args: [class: "semantic_search:SemanticSearch", paths: [__DIR__]],
    python: Path.join(__DIR__, "../.venv/bin/python")
  )

:ok = Snakepit.Pool.await_ready(Search, 120_000)

guides = Path.wildcard(Path.join(__DIR__, "../../guides/*.md"))
documents = Map.new(guides, &{Path.basename(&1), File.read!(&1)})

{:ok, %{"paragraphs" => count}} =
  Snakepit.execute("index", %{documents: documents}, pool: Search, timeout: 120_000)

IO.puts("#{count} paragraphs of #{map_size(documents)} guides\n")

questions =
  case System.argv() do
    [] -> ["What happens when a process is killed?", "Where do printed lines appear?"]
    given -> given
  end

for question <- questions do
  IO.puts(question)

  {:ok, %{"result" => found}} =
    Snakepit.execute("search", %{question: question, top: 3}, pool: Search, timeout: 120_000)

  for %{"document" => document, "score" => score, "text" => text} <- found do
    score = :erlang.float_to_binary(score, decimals: 2)
    IO.puts("  #{score} #{document}: #{String.slice(text, 0, 70)}")
  end

  IO.puts("")
end
