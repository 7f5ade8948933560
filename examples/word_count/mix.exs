defmodule WordCount.MixProject do
  use Mix.Project

  def project do
    [
      app: :word_count,
      version: "0.1.0",
      elixir: "~> 1.14",
      deps: [{:snakepit, path: "../.."}]
    ]
  end

  def application do
    [extra_applications: [:logger]]
  end
end
