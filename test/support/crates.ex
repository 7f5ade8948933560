defmodule Snakepit.Test.Crates do
  @moduledoc false
  # Small crates without dependencies, which cargo builds in a second.

  import Snakepit.Test.Files, only: [put!: 3]

  @doc "Writes a workspace of libraries and programs, and returns the target that rustc builds for."
  def write!(directory, libraries, programs) do
    crates =
      for {names, file, code, lib} <- [
            {libraries, "lib.rs", "", ~s([lib]\ncrate-type = ["cdylib"]\n)},
            {programs, "main.rs", "fn main() {}\n", ""}
          ],
          name <- names do
        manifest = ~s([package]\nname = "#{name}"\nedition = "2021"\n) <> lib
        put!(directory, "native/#{name}/Cargo.toml", manifest)
        put!(directory, "native/#{name}/src/#{file}", code)
        ~s([[package]]\nname = "#{name}"\nversion = "0.0.0"\n)
      end

    put!(directory, "Cargo.lock", Enum.join(["version = 3\n" | Enum.sort(crates)], "\n"))

    put!(directory, "Cargo.toml", """
    [workspace]
    resolver = "2"
    members = ["native/*"]
    [workspace.package]
    rust-version = "1.70"
    """)

    {version, 0} = System.cmd("rustc", ["-vV"])
    [_, host] = Regex.run(~r/^host: (.+)$/m, version)
    host
  end
end
