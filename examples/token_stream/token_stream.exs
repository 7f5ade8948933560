# mix run examples/token_stream/token_stream.exs
#
# A GenServer receives the words of a text as they are written, as a LiveView would, and cancels the stream
# after the end of its third sentence. The generator in Python ends then, and its worker is free.

defmodule Reader do
  use GenServer
  require Snakepit

  @sentences 3

  def start_link(_), do: GenServer.start_link(__MODULE__, [])

  def await_end(reader) do
    monitor = Process.monitor(reader)

    receive do
      {:DOWN, ^monitor, :process, _reader, reason} when reason in [:normal, :noproc] -> :ok
    end
  end

  @impl true
  def init(_) do
    options = [pool: Writer, timeout: :infinity, demand: 5]

    case Snakepit.start_stream("write", %{seed: 7}, options) do
      {:ok, call} -> {:ok, %{call: call, sentences: 0, words: 0}}
      {:error, error} -> {:stop, error}
    end
  end

  @impl true
  def handle_info({:snakepit, ref, {:chunks, chunks}}, %{call: %{ref: ref} = call} = state) do
    state = Enum.reduce_while(chunks, state, &write/2)

    if state.sentences == @sentences do
      Snakepit.cancel(call)
      IO.puts("\n\ncancelled after #{state.words} words")
      {:stop, :normal, state}
    else
      Snakepit.ask(call, length(chunks))
      {:noreply, state}
    end
  end

  def handle_info({:snakepit, _ref, {:error, error}} = message, state)
      when Snakepit.is_event(message, state.call),
      do: {:stop, error, state}

  defp write(%{"token" => word}, state) do
    IO.write([word, " "])
    state = %{state | words: state.words + 1}

    if String.ends_with?(word, "."),
      do: stop_after(%{state | sentences: state.sentences + 1}),
      else: {:cont, state}
  end

  defp stop_after(%{sentences: @sentences} = state), do: {:halt, state}
  defp stop_after(state), do: {:cont, state}
end

guides = Path.wildcard(Path.join(__DIR__, "../../guides/*.md"))

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Writer,
    size: 1,
    startup_timeout: 120_000,
    adapter_args: [class: "token_stream:Writer", paths: [__DIR__], init: %{files: guides}]
  )

:ok = Snakepit.Pool.await_ready(Writer, 120_000)

{:ok, reader} = Reader.start_link([])
:ok = Reader.await_end(reader)

# It is the pool's only worker: that it answers shows that the generator has ended.
chunks = "write" |> Snakepit.stream(%{limit: 2}, pool: Writer, timeout: 120_000) |> Enum.to_list()
IO.puts("the worker is free: it has written #{List.last(chunks)["count"]} more words")
