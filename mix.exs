defmodule Snakepit.MixProject do
  use Mix.Project

  @version "0.1.0"
  @source_url "https://github.com/nshkrdotcom/snakepit"

  def project do
    [
      app: :snakepit,
      version: @version,
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
      source_url: @source_url,
      homepage_url: @source_url,
      package: package(),
      docs: [source_ref: "v#{@version}"]
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

  # Sources and checksums only. `mix snakepit.precompile --checksums` writes the checksums; without
  # them `mix hex.build` refuses to build the package.
  defp package do
    [
      maintainers: ["The Snakepit developers"],
      licenses: ["MIT"],
      links: %{
        "GitHub" => @source_url,
        "Changelog" => "#{@source_url}/blob/v#{@version}/CHANGELOG.md"
      },
      files:
        ~w(lib native/*/src native/*/Cargo.toml native/*/build.rs native/*/benches native/README.md
                python/snakepit_bridge/**/*.{py,pyi} python/snakepit_bridge/py.typed
                python/hatch_build.py python/pyproject.toml python/README.md python/LICENSE
                proto/*.proto guides Cargo.toml Cargo.lock .cargo/config.toml checksum-*.exs
                mix.exs .formatter.exs README.md CHANGELOG.md LICENSE),
      exclude_patterns: [~r"tests?\.rs$"]
    ]
  end
end
