defmodule Mix.Snakepit.TargetTest do
  use ExUnit.Case, async: true

  alias Mix.Snakepit.Target

  test "each BEAM's name for its platform is translated to Rust's" do
    for {architecture, target} <- [
          {"x86_64-pc-linux-gnu", "x86_64-unknown-linux-gnu"},
          {"x86_64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"},
          {"x86_64-alpine-linux-musl", "x86_64-unknown-linux-musl"},
          {"amd64-pc-linux-gnu", "x86_64-unknown-linux-gnu"},
          {"aarch64-linux-gnu", "aarch64-unknown-linux-gnu"},
          {"arm64-apple-darwin23.1.0", "aarch64-apple-darwin"},
          {"aarch64-apple-darwin22.6.0", "aarch64-apple-darwin"},
          {"x86_64-apple-darwin21.0.0", "x86_64-apple-darwin"},
          {"armv7l-unknown-linux-gnueabihf", "armv7l-unknown-linux-gnueabihf"},
          {"x86_64-unknown-freebsd14.0", "x86_64-unknown-freebsd14.0"}
        ],
        do:
          assert({architecture, Target.from_architecture(architecture)} == {architecture, target})
  end

  test "a release has an archive for this machine's kind, among six" do
    assert length(Target.precompiled()) == 6
    assert "aarch64-unknown-linux-musl" in Target.precompiled()
  end
end
