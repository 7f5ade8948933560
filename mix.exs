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
      elixirc_options: elixirc_options(Code.compiler_options()),
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
      docs: docs()
    ]
  end

  def application do
    [
      mod: {Snakepit.Application, []},
      extra_applications: [:crypto, :logger, :public_key, telemetry: :optional]
    ]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  # Newer versions of Elixir infer types from all applications that this one may use, and warn if one,
  # as :telemetry may be, is not there.
  defp elixirc_options(%{infer_signatures: [_ | _]}), do: [infer_signatures: [:crypto, :logger]]
  defp elixirc_options(_options), do: []

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
                proto guides Cargo.toml Cargo.lock .cargo/config.toml checksum-*.exs
                mix.exs .formatter.exs README.md CHANGELOG.md LICENSE llms.txt),
      exclude_patterns: [~r"tests?\.rs$"]
    ]
  end

  # For ExDoc, which is no dependency: `mix docs` works where it is on the code path.
  defp docs do
    [
      main: "readme",
      source_ref: "v#{@version}",
      extras: extras(),
      groups_for_extras: [
        "First steps": ~r"guides/(getting_started|installation|cheatsheet|exploring)",
        Notebooks: ~r"guides/notebooks/",
        Python:
          ~r"guides/(writing_commands|streaming|tools|input_streams|sessions|values|testing)",
        Running:
          ~r"guides/(configuration|serving_models|deployment|beyond_one_machine|telemetry|troubleshooting|reliability)",
        More: ~r"guides/(performance|adapters|migrating)|python/"
      ],
      groups_for_modules: [
        Pools: [Snakepit.Pool, Snakepit.Pool.Worker, Snakepit.Pool.WorkerSupervisor],
        Calls: [Snakepit.Call, Snakepit.Error, Snakepit.Input],
        Observing: [Snakepit.Telemetry, Snakepit.LiveDashboard],
        Values: [Snakepit.Arrow, Snakepit.Bytes, Snakepit.Encoder, Snakepit.Tensor],
        Adapters: ~r"^Snakepit.Adapter",
        gRPC: ~r"^Snakepit.GRPC"
      ],
      groups_for_docs: [
        Calls: &(&1[:group] == :calls),
        Streams: &(&1[:group] == :streams),
        Sessions: &(&1[:group] == :sessions),
        Pools: &(&1[:group] == :pools)
      ],
      nest_modules_by_prefix: [Snakepit.Adapters, Snakepit.GRPC],
      skip_undefined_reference_warnings_on: ["CHANGELOG.md"],
      before_closing_body_tag: &before_closing_body_tag/1
    ]
  end

  defp extras do
    guides =
      ~w(getting_started installation exploring writing_commands streaming tools input_streams sessions values testing configuration
         serving_models deployment beyond_one_machine telemetry troubleshooting reliability performance adapters migrating)

    notebooks = "guides/notebooks/*.livemd" |> Path.wildcard() |> Enum.sort()

    ["README.md", "guides/getting_started.md", "guides/cheatsheet.cheatmd"] ++
      for(guide <- tl(guides), do: "guides/#{guide}.md") ++
      notebooks ++
      [
        {"python/README.md", filename: "python", title: "Python's side"},
        "CHANGELOG.md",
        "LICENSE"
      ]
  end

  # Pictures in blocks of the language `mermaid`, and Python in colours.
  defp before_closing_body_tag(:html) do
    """
    <script defer src="https://cdn.jsdelivr.net/npm/mermaid@11/dist/mermaid.min.js"></script>
    <script defer src="https://cdn.jsdelivr.net/npm/@highlightjs/cdn-assets@11/highlight.min.js"></script>
    <script>
      window.addEventListener("exdoc:loaded", () => {
        document.querySelectorAll("pre code.python").forEach((code) => {
          const { value } = hljs.highlight(code.textContent, { language: "python" })
          const names = { keyword: "k", built_in: "nb", string: "s", number: "mi", comment: "c1", title: "nf", meta: "nd", literal: "kc" }
          code.innerHTML = value.replace(/class="hljs-(\\w+)[^"]*"/g, (_, kind) => `class="${names[kind] || ""}"`)
          code.classList.add("makeup")
        })
        mermaid.initialize({
          startOnLoad: false,
          theme: document.body.className.includes("dark") ? "dark" : "default"
        })
        document.querySelectorAll("pre code.mermaid").forEach(async (code, index) => {
          const { svg } = await mermaid.render(`picture-${index}`, code.textContent)
          const picture = document.createElement("div")
          picture.innerHTML = svg
          code.parentElement.replaceWith(picture)
        })
      })
    </script>
    """
  end

  defp before_closing_body_tag(_format), do: ""
end
