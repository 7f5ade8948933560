defmodule Snakepit.MixProject do
  use Mix.Project

  def project do
    [
      app: :snakepit,
      version: "0.1.0",
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      compilers: Mix.compilers() ++ [:snakepit],
      elixirc_paths: elixirc_paths(Mix.env()),
      aliases: [
        "snakepit.bench": "run bench/snakepit.exs",
        "snakepit.faults": "run faults/run.exs"
      ],
      deps: [],
      name: "Snakepit",
      description: "Runs pools of Python workers and calls them over gRPC, through Rust.",
      package: package()
    ]
  end

  def application do
    [
      mod: {Snakepit.Application, []},
      extra_applications: [:crypto, :logger, telemetry: :optional]
    ]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp package do
    [
      licenses: ["MIT"],
      links: %{},
      files: ~w(lib native proto guides python priv Cargo.toml Cargo.lock .cargo mix.exs
                .formatter.exs README.md CHANGELOG.md LICENSE)
    ]
  end
end
