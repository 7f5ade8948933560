defmodule Snakepit.Test.Proper do
  @moduledoc false
  # PropEr, which `bin/setup --dev` installs from Debian: where it is, and properties as ExUnit has
  # tests.

  @doc "Puts PropEr into the code path."
  def load! do
    roots = [:code.root_dir(), "/usr/lib/erlang"]

    case Enum.flat_map(roots, &Path.wildcard(Path.join(&1, "lib/proper-*/ebin"))) do
      [path | _] ->
        Code.append_path(path)

      [] ->
        raise "PropEr is not installed: bin/setup --dev does that, or apt-get install erlang-proper"
    end
  end

  @doc "Checks that `holds` of whatever `type` generates; fails with the smallest counterexample."
  def check!(type, runs, holds) do
    property = apply(:proper, :forall, [type, holds])
    options = [:quiet, :long_result, numtests: runs, max_size: 20]

    case apply(:proper, :quickcheck, [property, options]) do
      true -> :ok
      found -> ExUnit.Assertions.flunk("does not hold of #{inspect(found, limit: 1_000)}")
    end
  end
end
