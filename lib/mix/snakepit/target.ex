defmodule Mix.Snakepit.Target do
  @moduledoc false
  # The platform that the native libraries are for, named as Rust does.

  @precompiled for processor <- ~w(x86_64 aarch64),
                   system <- ~w(unknown-linux-gnu unknown-linux-musl apple-darwin),
                   do: "#{processor}-#{system}"

  # Those of a release.
  def precompiled, do: @precompiled

  def current, do: requested() || from_architecture(machine())

  # What the environment asks for: in the variable of cargo, or in those of Nerves.
  def requested do
    case for name <- ~w(CARGO_BUILD_TARGET TARGET_ARCH TARGET_OS TARGET_ABI),
             do: System.get_env(name, "") do
      ["", processor, system, abi] when processor != "" and system != "" and abi != "" ->
        "#{processor}-unknown-#{system}-#{abi}"

      ["" | _] ->
        nil

      [target | _] ->
        target
    end
  end

  # The BEAM itself says what it was built for: `x86_64-pc-linux-gnu`, `arm64-apple-darwin23.1.0`.
  def from_architecture(architecture) do
    [processor | rest] = String.split(architecture, "-")
    processor = %{"arm64" => "aarch64", "amd64" => "x86_64"}[processor] || processor

    cond do
      Enum.any?(rest, &String.starts_with?(&1, "darwin")) -> "#{processor}-apple-darwin"
      "linux" in rest -> "#{processor}-unknown-linux-#{List.last(rest)}"
      true -> architecture
    end
  end

  defp machine, do: to_string(:erlang.system_info(:system_architecture))
end
