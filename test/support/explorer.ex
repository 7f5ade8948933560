# The functions of Explorer that Snakepit calls, under the same names. If Explorer itself is on
# the code path, the tests use it.
unless Code.ensure_loaded?(Explorer.PolarsBackend) do
  defmodule Explorer.DataFrame do
    @moduledoc false
    # The real struct holds a reference to a Polars frame; this one holds the stream that it would
    # return.
    defstruct [:data, :groups, :names, :dtypes]

    def load_ipc_stream!(contents, _options \\ []), do: %__MODULE__{data: contents}
    def dump_ipc_stream!(%__MODULE__{data: contents}, _options \\ []), do: contents
  end
end
