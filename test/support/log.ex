defmodule Snakepit.Test.Log do
  @moduledoc false
  # Sends Logger's messages about one pool to the test, which waits for a line instead of a time.

  import ExUnit.{Assertions, Callbacks}

  @patience 60_000

  @doc "From here on the test receives `{:logged, pool, level, text}` for each message about the pool."
  def follow(pool) do
    id = :"log_of_#{pool}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: %{test: self(), pool: pool}})
    on_exit(fn -> :logger.remove_handler(id) end)
  end

  @doc "Waits for a line with the text. Returns all messages up to it, as `{level, text}`."
  def await(pool, text, seen \\ []) do
    assert_receive {:logged, ^pool, level, line}, @patience
    seen = [{level, line} | seen]
    if line =~ text, do: Enum.reverse(seen), else: await(pool, text, seen)
  end

  @doc false
  # The callback of a `:logger` handler.
  def log(%{msg: {:string, text}, level: level}, %{config: %{test: test, pool: pool}}) do
    text = IO.chardata_to_string(text)
    if text =~ inspect(pool), do: send(test, {:logged, pool, level, text})
  end

  def log(_event, _config), do: :ok
end
