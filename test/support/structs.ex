defmodule Snakepit.Test.Structs do
  @moduledoc false
  # Structs with their ways to Python. Protocols are consolidated before tests are compiled.

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
end
