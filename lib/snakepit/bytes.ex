defmodule Snakepit.Bytes do
  @moduledoc "A binary that arrives in Python as `bytes`, even if it is text: see `Snakepit.bytes/1`."

  @enforce_keys [:data]
  defstruct [:data]

  @type t :: %__MODULE__{data: binary}
end
