defmodule Mix.Tasks.Snakepit.Precompile do
  @shortdoc "Packs the native libraries of a target for a release of Snakepit"

  @moduledoc """
  Builds the native libraries of a target and packs them into the archive that packages of the same
  version download. This is for those who release Snakepit; it runs in a checkout.

      mix snakepit.precompile [--target TARGET] [--zigbuild] [--output DIRECTORY]

    * `--target` - a target of Rust, by default that of this machine. Its standard library must be
      installed: `rustup target add TARGET`
    * `--zigbuild` - links with `cargo zigbuild`, which can link for other systems and for an older
      glibc: `--target x86_64-unknown-linux-gnu.2.28`
    * `--output` - where to put the archive, by default `tmp/precompiled`

  Once the archives of all targets are in one directory, this writes their checksums to the file
  that the Hex package must contain:

      mix snakepit.precompile --checksums DIRECTORY

  `mix do loadpaths + compile.elixir + snakepit.precompile` does not first build the libraries of the
  machine that it runs on. `.github/workflows/release.yml` builds a release this way, and
  `bin/try-archive DIRECTORY` installs the archives of a directory on a machine without cargo.
  """
  use Mix.Task

  alias Mix.Snakepit.{Archive, Libraries, Target}

  @options [target: :string, zigbuild: :boolean, output: :string, checksums: :string]

  @impl true
  def run(args) do
    {options, _rest} = OptionParser.parse!(args, strict: @options)
    if options[:checksums], do: checksums(options[:checksums]), else: pack(options)
  end

  defp pack(options) do
    command = if options[:zigbuild], do: "zigbuild", else: "build"
    target = options[:target] || Target.current()
    path = Libraries.pack!(target, Keyword.get(options, :output, "tmp/precompiled"), command)
    Mix.shell().info("Packed #{path} (#{div(File.stat!(path).size, 1000)} kB)")
  end

  defp checksums(directory) do
    archives = Path.wildcard(Path.join(directory, "*.tar.gz"))
    missing = Enum.reject(Target.precompiled(), &(Libraries.archive(&1) in names(archives)))

    for target <- missing,
        do: Mix.shell().info("There is no archive for #{target} in #{directory}")

    if archives == [], do: Mix.raise("#{directory} has no archives")
    Mix.shell().info("Wrote #{Archive.write_checksums!(".", archives)}")
  end

  defp names(paths), do: Enum.map(paths, &Path.basename/1)
end
