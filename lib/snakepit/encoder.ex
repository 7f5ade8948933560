defprotocol Snakepit.Encoder do
  @moduledoc """
  Converts a struct to the value that is sent to Python in its place.

      defmodule MyApp.Point do
        defstruct [:x, :y]
      end

      defimpl Snakepit.Encoder, for: MyApp.Point do
        def encode(point), do: %{x: point.x, y: point.y}
      end

  To send a map of some or all of the fields, derive it:

      defmodule MyApp.User do
        @derive {Snakepit.Encoder, only: [:name, :email]}
        defstruct [:name, :email, :password]
      end

  `only:` and `except:` are optional. The value that `encode/1` returns may contain structs.

  These have an implementation: `Date`, `Time`, `DateTime` and `NaiveDateTime` (ISO 8601), `URI` and
  `Decimal` (text), `MapSet` and `Range` (lists), `Nx` tensors (`Snakepit.Tensor`) and
  `Explorer` data frames (`Snakepit.Arrow`). A struct without an implementation is refused; the error names its place.
  """

  @doc "Returns a term to send to Python: anything but a pid, a port, a reference or a function."
  @doc since: "0.1.0"
  @spec encode(t) :: term
  def encode(struct)
end

defimpl Snakepit.Encoder, for: Any do
  defmacro __deriving__(module, struct, options) do
    fields =
      (struct |> Map.keys() |> List.delete(:__struct__)) -- Keyword.get(options, :except, [])

    fields = Keyword.get(options, :only, fields)

    quote do
      defimpl Snakepit.Encoder, for: unquote(module) do
        def encode(struct), do: Map.take(struct, unquote(fields))
      end
    end
  end

  def encode(struct), do: raise(Protocol.UndefinedError, protocol: @protocol, value: struct)
end

for module <- [Date, Time, DateTime, NaiveDateTime] do
  defimpl Snakepit.Encoder, for: module do
    def encode(value), do: unquote(module).to_iso8601(value)
  end
end

defimpl Snakepit.Encoder, for: [MapSet, Range] do
  def encode(values), do: Enum.to_list(values)
end

defimpl Snakepit.Encoder, for: URI do
  def encode(uri), do: URI.to_string(uri)
end
