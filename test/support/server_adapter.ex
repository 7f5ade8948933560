defmodule Snakepit.Test.ServerAdapter do
  @moduledoc false
  # For servers that belong to the tests: `use` it with the `script:`.

  defmacro __using__(script: script) do
    quote do
      @behaviour Snakepit.Adapter

      @impl true
      def uses_grpc?, do: true

      @impl true
      def executable_path, do: ".venv/bin/python"

      @impl true
      def script_path, do: Path.expand("test/support/python/" <> unquote(script))
    end
  end
end
