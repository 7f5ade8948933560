defmodule Snakepit.Test.Structs do
  @moduledoc false
  # Structs with their encoders. Protocols are consolidated before tests are compiled.

  defmodule Point do
    @moduledoc false
    defstruct [:x, :y]

    defimpl Snakepit.Encoder do
      def encode(point), do: %{at: {point.x, point.y}, on: ~D[2026-01-01]}
    end
  end

  defmodule User do
    @moduledoc false
    @derive {Snakepit.Encoder, only: [:name]}
    defstruct [:name, :password]
  end

  defmodule Account do
    @moduledoc false
    @derive {Snakepit.Encoder, except: [:password]}
    defstruct [:id, :password]
  end

  defmodule Unknown do
    @moduledoc false
    defstruct [:x]
  end

  defmodule Lazy do
    @moduledoc false
    # Its encoder calls its function.
    defstruct [:fun]

    defimpl Snakepit.Encoder do
      def encode(%{fun: fun}), do: fun.()
    end
  end

  defmodule Broken do
    @moduledoc false
    # Its encoder does what its fields say.
    defstruct [:how]

    defimpl Snakepit.Encoder do
      def encode(%{how: :raise}), do: raise("no such row")
      def encode(%{how: :error}), do: raise(Snakepit.Error, reason: :timeout, message: "too late")
      def encode(%{how: :bytes}), do: raise(<<255>>)
      def encode(%{how: :throw}), do: throw(:ball)
      def encode(%{how: :exit}), do: exit(:shutdown)
      def encode(%{how: :endless} = struct), do: [struct]
      def encode(%{how: fun}), do: fun
    end
  end
end
