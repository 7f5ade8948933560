defmodule Mix.Snakepit.CargoTest do
  # Changes variables of the environment. Builds small crates with the real cargo.
  use ExUnit.Case

  import ExUnit.CaptureIO
  import Snakepit.Test.Files, only: [put!: 3]

  alias Mix.Snakepit.Cargo
  alias Snakepit.Test.Crates

  @moduletag :tmp_dir
  @variables ~w(CARGO_BUILD_TARGET CARGO_TARGET_DIR)

  setup %{tmp_dir: dir} do
    Snakepit.Test.Environment.put(for name <- @variables, do: {name, nil})

    {:ok, host: Crates.write!(dir, ["library_crate"], ["program_crate"])}
  end

  test "the files of a build are where cargo says", %{tmp_dir: dir, host: host} do
    assert {artifacts, ^host} = build(dir)
    assert artifacts["program_crate"] == Path.join(dir, "target/release/program_crate")
    assert Path.dirname(artifacts["library_crate"]) == Path.join(dir, "target/release")
  end

  test "a target in a variable or in cargo's configuration is followed", %{
    tmp_dir: dir,
    host: host
  } do
    folder = Path.join(dir, "target/#{host}/release")
    System.put_env("CARGO_BUILD_TARGET", host)
    assert {artifacts, ^host} = build(dir)
    assert artifacts["program_crate"] == Path.join(folder, "program_crate")

    System.delete_env("CARGO_BUILD_TARGET")
    File.rm_rf!(Path.join(dir, "target"))
    config = put!(dir, ".cargo/config.toml", ~s([build]\ntarget = "#{host}"\n))
    assert {artifacts, ^host} = build(dir)
    assert artifacts["program_crate"] == Path.join(folder, "program_crate")
    assert config in Cargo.configuration(dir)
  end

  test "a directory in a variable or in the configuration is followed", %{tmp_dir: dir} do
    System.put_env("CARGO_TARGET_DIR", Path.join(dir, ~s(a "quoted" ü folder)))
    assert {%{"program_crate" => file}, _} = build(dir)
    assert file == Path.join(dir, ~s(a "quoted" ü folder/release/program_crate))
    assert File.exists?(file)

    System.delete_env("CARGO_TARGET_DIR")
    put!(dir, ".cargo/config.toml", ~s([build]\ntarget-dir = "elsewhere"\n))
    assert {%{"program_crate" => file}, _} = build(dir)
    assert file == Path.join(dir, "elsewhere/release/program_crate")
  end

  test "variables that are set to nothing count as unset", %{tmp_dir: dir} do
    System.put_env(for name <- @variables, do: {name, ""})
    assert {%{"program_crate" => file}, _} = build(dir)
    assert file == Path.join(dir, "target/release/program_crate")

    home = Path.join(dir, "home")
    config = put!(home, ".cargo/config.toml", "")
    Snakepit.Test.Environment.put([{"HOME", home}, {"CARGO_HOME", ""}])
    assert config in Cargo.configuration(dir)
  end

  test "a build that fails, and a cargo that is too old, are errors in words", %{tmp_dir: dir} do
    assert_raise Mix.Error, ~r/cargo build .* ended with status 101; its errors are above/, fn ->
      Cargo.build!(dir, ["library_crate"], ["--target", "no-such-target"])
    end

    manifest = Path.join(dir, "Cargo.toml")
    File.write!(manifest, String.replace(File.read!(manifest), "1.70", "7.70"))

    assert_raise Mix.Error,
                 ~r/cargo is too old, 1\.\d+: building needs Rust 7\.70 or newer/,
                 fn ->
                   build(dir)
                 end
  end

  test "a cargo of rustup without a toolchain is an error that quotes it", %{tmp_dir: dir} do
    program = put!(dir, "bin/cargo", "#!/bin/sh\necho no toolchain is installed >&2\nexit 1\n")

    File.chmod!(program, 0o755)

    Snakepit.Test.Environment.put([
      {"PATH", Path.dirname(program) <> ":" <> System.get_env("PATH")}
    ])

    error = assert_raise Mix.Error, fn -> build(dir) end
    assert error.message =~ "bin/cargo cannot be run: no toolchain is installed\n"
    assert error.message =~ "building needs Rust 1.70 or newer"
  end

  defp build(dir) do
    me = self()
    capture_io(fn -> send(me, Cargo.build!(dir, ~w(library_crate program_crate), [])) end)
    assert_received {%{}, _} = built
    built
  end
end
