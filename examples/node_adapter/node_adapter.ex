defmodule NodeAdapter do
  @moduledoc """
  Workers in Node.js.

      {Snakepit.Pool, name: MyApp.Node, adapter: NodeAdapter}
      Snakepit.execute("word_lengths", %{text: "one three"}, pool: MyApp.Node)
  """
  @behaviour Snakepit.Adapter

  @impl true
  def executable_path, do: "node"

  @impl true
  def script_path, do: Path.join(__DIR__, "worker.js")

  @impl true
  def supported_commands, do: ~w(ping echo word_lengths sleep count)
end
