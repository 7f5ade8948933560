# What Snakepit asks of Explorer, under the same names. Where Explorer itself is on the code path, the tests run with
# that.
unless Code.ensure_loaded?(Explorer.PolarsBackend) do
  defmodule Explorer.DataFrame do
    @moduledoc false
    # The real one holds a reference to a frame of Polars; here it is the stream that it would give.
    defstruct [:data, :groups, :names, :dtypes]

    def load_ipc_stream!(contents, _options \\ []), do: %__MODULE__{data: contents}
    def dump_ipc_stream!(%__MODULE__{data: contents}, _options \\ []), do: contents
  end
end
