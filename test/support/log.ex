defmodule Snakepit.Test.Log do
  @moduledoc false
  # Sends Logger's messages about one pool to the test, which waits for a line instead of a time.

  import ExUnit.Assertions

  @patience 60_000

  @doc "Adds the one handler of all tests: adding and removing one for each test can leave Logger with a name of none."
  def start do
    {:ok, _} = Registry.start_link(keys: :duplicate, name: __MODULE__)
    :ok = :logger.add_handler(__MODULE__, __MODULE__, %{})
  end

  @doc "From here on the test receives `{:logged, pool, level, text}` for each message about the pool."
  def follow(pool), do: {:ok, _} = Registry.register(__MODULE__, pool, nil)

  @doc "Waits for a line with the text. Returns all messages up to it, as `{level, text}`."
  def await(pool, text, seen \\ []) do
    assert_receive {:logged, ^pool, level, line}, @patience
    seen = [{level, line} | seen]
    if line =~ text, do: Enum.reverse(seen), else: await(pool, text, seen)
  end

  @doc false
  # The callback of a `:logger` handler.
  def log(%{msg: {:string, text}, level: level}, _config) do
    text = IO.chardata_to_string(text)
    all = Registry.select(__MODULE__, [{{:"$1", :"$2", :_}, [], [{{:"$1", :"$2"}}]}])
    for {pool, test} <- all, text =~ inspect(pool), do: send(test, {:logged, pool, level, text})
  end

  def log(_event, _config), do: :ok
end
