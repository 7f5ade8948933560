defmodule Snakepit.Test.Proper do
  @moduledoc false
  # Finds PropEr, which `bin/setup --dev` installs from Debian, and defines properties as ExUnit
  # tests.

  @doc "Adds PropEr to the code path."
  def load! do
    roots = [:code.root_dir(), "/usr/lib/erlang"]

    case Enum.flat_map(roots, &Path.wildcard(Path.join(&1, "lib/proper-*/ebin"))) do
      [path | _] ->
        Code.append_path(path)

      [] ->
        raise "PropEr is not installed: bin/setup --dev does that, or apt-get install erlang-proper"
    end
  end

  @doc "Checks that `holds` is true for all values of `type`; fails with the smallest counterexample."
  def check!(type, runs, holds) do
    property = apply(:proper, :forall, [type, holds])
    options = [:quiet, :long_result, numtests: runs, max_size: 20]

    case apply(:proper, :quickcheck, [property, options]) do
      true -> :ok
      found -> ExUnit.Assertions.flunk("does not hold of #{inspect(found, limit: 1_000)}")
    end
  end
end
