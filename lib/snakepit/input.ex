defmodule Snakepit.Input do
  @moduledoc """
  An input stream of a call: an argument whose items Python takes while the command runs. `Snakepit.input/2` makes one.
  """
  @enforce_keys [:source]
  defstruct [:source, :max_items, :max_bytes]

  @typedoc "Made by `Snakepit.input/2`."
  @opaque t :: %__MODULE__{
            source: Enumerable.t() | :push,
            max_items: pos_integer,
            max_bytes: pos_integer
          }
end
