defmodule Snakepit.Test.Log do
  @moduledoc false
  # What Logger gets of one pool, as messages to the test: it waits for a line, never for a time.

  import ExUnit.{Assertions, Callbacks}

  @patience 60_000

  @doc "From here on the test gets `{:logged, pool, level, text}` for what is logged of the pool."
  def follow(pool) do
    id = :"log_of_#{pool}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: %{test: self(), pool: pool}})
    on_exit(fn -> :logger.remove_handler(id) end)
  end

  @doc "Waits for a line with the text. All that came up to it, `{level, text}` each."
  def await(pool, text, seen \\ []) do
    assert_receive {:logged, ^pool, level, line}, @patience
    seen = [{level, line} | seen]
    if line =~ text, do: Enum.reverse(seen), else: await(pool, text, seen)
  end

  @doc false
  # As `:logger` calls a handler.
  def log(%{msg: {:string, text}, level: level}, %{config: %{test: test, pool: pool}}) do
    text = IO.chardata_to_string(text)
    if text =~ inspect(pool), do: send(test, {:logged, pool, level, text})
  end

  def log(_event, _config), do: :ok
end
