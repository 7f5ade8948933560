# mix run examples/two_way/chat.exs
#
# A GenServer passes on messages to a command as they come, and receives what that says to them.

defmodule ChatRoom do
  use GenServer
  require Snakepit

  def start_link(pool), do: GenServer.start_link(__MODULE__, pool)
  def say(room, from, text), do: GenServer.call(room, {:say, from, text})
  def leave(room), do: GenServer.call(room, :leave, :infinity)

  @impl true
  def init(pool) do
    args = %{messages: Snakepit.input(:push)}

    case Snakepit.start_stream("listen", args, pool: pool, demand: 10, timeout: :infinity) do
      {:ok, call} -> {:ok, %{call: call, leaving: nil}}
      {:error, error} -> {:stop, error}
    end
  end

  @impl true
  # It never waits: a message that Python has no room for is refused.
  def handle_call({:say, from, text}, _from, state),
    do: {:reply, Snakepit.push(state.call, %{from: from, text: text}, timeout: 0), state}

  def handle_call(:leave, from, state) do
    :ok = Snakepit.finish(state.call)
    {:noreply, %{state | leaving: from}}
  end

  @impl true
  def handle_info({:snakepit, ref, {:chunks, chunks}}, %{call: %{ref: ref} = call} = state) do
    for %{"to" => to, "text" => text} <- chunks, do: IO.puts("to #{to}: #{text}")
    Snakepit.ask(call, length(chunks))
    {:noreply, state}
  end

  def handle_info(message, %{call: call} = state) when Snakepit.is_event(message, call) do
    if state.leaving, do: GenServer.reply(state.leaving, :ok)
    {:stop, :normal, state}
  end
end

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Chat,
    size: 1,
    adapter_args: [class: "chat:Chat", paths: [Path.join(__DIR__, "python")]]
  )

{:ok, room} = ChatRoom.start_link(Chat)

say = fn say, from, text ->
  # The worker may still be starting.
  with :busy <- ChatRoom.say(room, from, text) do
    Process.sleep(10)
    say.(say, from, text)
  end
end

say.(say, "Ada", "the engine weaves patterns")
say.(say, "Bob", "the loom weaves flowers and leaves")
say.(say, "Ada", "the engine weaves the flowers")
:ok = ChatRoom.leave(room)
