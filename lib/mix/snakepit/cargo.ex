defmodule Mix.Snakepit.Cargo do
  @moduledoc false
  # Builds crates with cargo, and asks it where it has put them: that depends on variables and on
  # configuration files.

  @progress_interval 15_000
  @linker "a C compiler with its linker, `cc` (Debian: gcc libc6-dev; Alpine: gcc musl-dev; macOS: " <>
            "xcode-select --install)"

  # Everything of the system that a build needs, in words.
  def requirements(directory),
    do: "Rust #{rust_version(directory)} or newer (https://rustup.rs) and #{@linker}"

  # Returns the file of each crate, and the target that they are for.
  def build!(directory, crates, args, options \\ []) do
    cargo = executable!(directory)
    args = args ++ Enum.flat_map(crates, &["--package", &1])
    given = for {name, value} <- options[:env] || [], do: {to_charlist(name), to_charlist(value)}
    command = Keyword.get(options, :command, "build")
    # On a terminal, cargo itself shows how far it is.
    terminal? = terminal?()
    quiet = if terminal?, do: [], else: ["--quiet"]

    args =
      [command | ~w(--release --locked --message-format=json-render-diagnostics)] ++ quiet ++ args

    port =
      Port.open({:spawn_executable, to_charlist(cargo)}, [
        :binary,
        :exit_status,
        :hide,
        {:args, args},
        {:cd, to_charlist(directory)},
        {:env, unset() ++ given},
        {:line, 65_536}
      ])

    progress = %{
      terminal?: terminal?,
      started: now(),
      next: now() + @progress_interval,
      crates: 0
    }

    {status, artifacts} = follow(port, "", %{}, progress)

    if status != 0 do
      Mix.raise(
        "cargo #{Enum.join(args, " ")} ended with status #{status}; its errors are above#{hint()}"
      )
    end

    case crates -- Map.keys(artifacts) do
      [] -> {artifacts, target(artifacts[hd(crates)])}
      missing -> Mix.raise("cargo has built no library or program of #{Enum.join(missing, ", ")}")
    end
  end

  # cargo refuses to take one that is set to nothing for unset.
  defp unset do
    for name <- ~w(CARGO_BUILD_TARGET CARGO_TARGET_DIR),
        Mix.Snakepit.env(name) == nil,
        do: {to_charlist(name), false}
  end

  # Files outside the sources that change what cargo builds.
  def configuration(directory) do
    home = Mix.Snakepit.env("CARGO_HOME") || Path.join(Mix.Snakepit.env("HOME") || "/", ".cargo")
    parents = directory |> Path.expand() |> Mix.Snakepit.parents()

    for folder <- Enum.map(parents, &Path.join(&1, ".cargo")) ++ [home],
        name <- ["config", "config.toml"],
        path = Path.join(folder, name),
        File.regular?(path),
        do: path
  end

  defp follow(port, line, artifacts, progress) do
    receive do
      {^port, {:data, {:noeol, part}}} ->
        follow(port, line <> part, artifacts, progress)

      {^port, {:data, {:eol, part}}} ->
        line = line <> part
        progress = told(progress, line)
        follow(port, "", Map.merge(artifacts, artifact(line)), progress)

      {^port, {:exit_status, status}} ->
        {status, artifacts}
    after
      max(0, progress.next - now()) -> follow(port, line, artifacts, tell(progress))
    end
  end

  defp told(progress, line) do
    crates = if compiled?(line), do: progress.crates + 1, else: progress.crates
    progress = %{progress | crates: crates}
    if now() >= progress.next, do: tell(progress), else: progress
  end

  defp tell(progress) do
    seconds = div(now() - progress.started, 1000)

    unless progress.terminal?,
      do: info("still compiling: #{progress.crates} crates in #{seconds} s")

    %{progress | next: now() + @progress_interval}
  end

  defp compiled?(line),
    do: line =~ ~s("reason":"compiler-artifact") and not (line =~ ~s("kind":["custom-build"]))

  # A line is a JSON object; Elixir 1.14 has no parser.
  defp artifact(line) do
    artifact =
      ~r/"target":\{"kind":\["(?:cdylib|bin)"\].*?"name":"([^"]+)".*"filenames":\["((?:[^"\\]|\\.)*)"/

    with true <- line =~ ~s("reason":"compiler-artifact"),
         [_line, name, file] <- Regex.run(artifact, line) do
      %{name => String.replace(file, ~r/\\(.)/, "\\1")}
    else
      _other -> %{}
    end
  end

  # A target that was named has a folder of its own, TARGET/release; otherwise it is that of rustc.
  defp target(file) do
    folder = file |> Path.dirname() |> Path.dirname() |> Path.basename()
    {targets, 0} = System.cmd("rustc", ["--print", "target-list"])

    if folder in String.split(targets) do
      folder
    else
      {version, 0} = System.cmd("rustc", ["-vV"])
      [_line, host] = Regex.run(~r/^host: (.+)$/m, version)
      host
    end
  end

  defp executable!(directory) do
    cargo =
      System.find_executable("cargo") || Mix.raise("cargo was not found: #{install(directory)}")

    required = rust_version(directory)

    case System.cmd(cargo, ["--version"], cd: directory, stderr_to_stdout: true) do
      {version, 0} ->
        with [_text, installed] <- Regex.run(~r/^cargo (\d+\.\d+)\./m, version),
             :lt <- Version.compare(installed <> ".0", required <> ".0"),
             do: Mix.raise("cargo is too old, #{installed}: #{install(directory)}")

      # For example that of rustup, without a toolchain.
      {output, _status} ->
        Mix.raise("#{cargo} cannot be run: #{String.trim(output)}\n\n#{install(directory)}")
    end

    cargo
  end

  defp install(directory), do: "building needs #{requirements(directory)}"

  defp rust_version(directory) do
    manifest = File.read!(Path.join(directory, "Cargo.toml"))
    [_line, version] = Regex.run(~r/^rust-version = "(\d+\.\d+)/m, manifest)
    version
  end

  defp hint do
    if System.find_executable("cc"), do: "", else: ". `cc` was not found: install #{@linker}"
  end

  defp terminal?, do: match?({_, 0}, System.cmd("sh", ["-c", "test -t 2"]))

  defp info(text), do: Mix.shell().info(text)
  defp now, do: System.monotonic_time(:millisecond)
end
