defmodule Snakepit.Test.Project do
  @moduledoc false
  # A user's Mix project that depends on this one, in a test's directory. All of them share one
  # build of Snakepit, which is kept between runs.

  import Snakepit.Test.Files, only: [put!: 3]

  @root File.cwd!()
  # Of a compiled application.
  @parts ["ebin", ".mix"]
  @shared Path.expand("_build/projects")

  @doc "Writes the project `app` into `dir`, with further files, a map of paths to texts."
  def write!(dir, app, files \\ %{}, options \\ []) do
    module = app |> to_string() |> Macro.camelize()
    files = Map.merge(%{"mix.exs" => mix_exs(app, module, options[:mod])}, files)

    for {path, text} <- files, do: put!(dir, path, text)
    dir
  end

  @doc "Adds this project as a dependency to the `mix.exs` that `mix new` has written."
  def add_dependency!(dir) do
    path = Path.join(dir, "mix.exs")
    deps = "defp deps do\n    ["

    text =
      path
      |> File.read!()
      |> String.replace(deps, "#{deps}\n{:snakepit, path: #{inspect(@root)}}")

    File.write!(path, [Code.format_string!(text), "\n"])
    dir
  end

  @doc "Runs `mix` in the project. Returns its output and exit status."
  def mix(dir, args, options \\ []) do
    {env, options} = Keyword.pop(options, :env, [])
    options = Keyword.merge([cd: dir, env: env(dir) ++ env, stderr_to_stdout: true], options)
    System.cmd("mix", args, options)
  end

  @doc "Matches what `mix test` prints when tests have passed, and none has failed."
  def passed, do: ~r/\b[1-9]\d* tests?, 0 failures\b|^Result: [1-9]\d* passed\b(?!.*failed)/m

  @doc "The environment variables with which `mix` runs in the project."
  def env(dir) do
    build = Path.join(dir, "_build/shared")
    library = Path.join(build, "lib/snakepit")

    # Mix itself makes the link to priv/, which depends on the directory.
    unless File.exists?(library) do
      File.mkdir_p!(library)
      parts = Enum.map(@parts, &Path.join(build!(), &1))
      {_, 0} = System.cmd("cp", ["-a" | parts] ++ [library])
    end

    [{"MIX_ENV", "dev"}, {"MIX_BUILD_PATH", build}]
  end

  @doc "Gives a project a copy of Snakepit's priv/, whose files may be changed. Returns the application's directory."
  def own_library!(dir) do
    # Makes the link to priv/.
    {_output, 0} = mix(dir, ["deps.loadpaths"])
    library = Path.join(dir, "_build/shared/lib/snakepit")

    link = Path.join(library, "priv")
    original = link |> File.read_link!() |> Path.expand(library)
    File.rm!(link)
    File.cp_r!(original, link)
    library
  end

  # Builds Snakepit as a dependency, once per run of the tests. Returns the directory.
  defp build! do
    library = Path.join(@shared, "_build/lib/snakepit")

    :global.trans({__MODULE__, self()}, fn ->
      unless :persistent_term.get(__MODULE__, false) do
        write!(@shared, :skeleton)
        env = [{"MIX_ENV", "dev"}, {"MIX_BUILD_PATH", Path.join(@shared, "_build")}]

        {output, status} =
          System.cmd("mix", ["deps.compile"], cd: @shared, env: env, stderr_to_stdout: true)

        if status != 0, do: raise("Snakepit does not build as a dependency: #{output}")
        :persistent_term.put(__MODULE__, true)
      end
    end)

    library
  end

  defp mix_exs(app, module, mod) do
    mod = if mod, do: "mod: {#{mod}, []}, "

    """
    defmodule #{module}.MixProject do
      use Mix.Project

      def project do
        [app: #{inspect(app)}, version: "0.1.0", deps: [{:snakepit, path: #{inspect(@root)}}]]
      end

      def application, do: [#{mod}extra_applications: [:logger]]
    end
    """
  end
end
