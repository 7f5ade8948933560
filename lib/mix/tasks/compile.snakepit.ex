defmodule Mix.Tasks.Compile.Snakepit do
  @moduledoc false
  # Builds the NIF with cargo and puts it, with the Python package, under priv/, where a release
  # looks for them. It runs after the Elixir compiler, which is what makes this module known.
  use Mix.Task.Compiler

  @library "priv/native/snakepit_nif.so"
  @package "priv/python/snakepit_bridge"

  @impl true
  def run(_args) do
    done = [build_library(), copy_package()]
    # priv/ may not have been there when the build folder was linked to it.
    Mix.Project.build_structure()
    {if(:ok in done, do: :ok, else: :noop), []}
  end

  @impl true
  def clean do
    File.rm_rf!("priv/native")
    File.rm_rf!("priv/python")
  end

  defp build_library do
    sources = files("{native,proto}/**/*.{rs,toml,proto}") ++ ["Cargo.toml", "Cargo.lock"]

    if Mix.Utils.stale?(sources, [@library]) do
      # What is edited while cargo runs is newer than the library.
      started = System.os_time(:second)
      cargo!()
      # A running system may have the old file mapped: it is replaced, never written into.
      File.mkdir_p!(Path.dirname(@library))
      File.cp!(built_library(), @library <> ".new")
      File.touch!(@library <> ".new", started)
      File.rename!(@library <> ".new", @library)
      :ok
    else
      :noop
    end
  end

  defp cargo! do
    cargo =
      System.find_executable("cargo") ||
        Mix.raise("cargo was not found: install Rust 1.91 or newer (https://rustup.rs)")

    args = ~w(build --release --locked --package snakepit_nif)

    case System.cmd(cargo, args, into: IO.stream(:stdio, :line), stderr_to_stdout: true) do
      {_output, 0} -> :ok
      {_output, status} -> Mix.raise("cargo #{Enum.join(args, " ")} ended with status #{status}")
    end
  end

  defp built_library do
    target = System.get_env("CARGO_TARGET_DIR", "target")
    extension = if match?({:unix, :darwin}, :os.type()), do: "dylib", else: "so"
    Path.join(target, "release/libsnakepit_nif.#{extension}")
  end

  defp copy_package do
    sources = files("python/snakepit_bridge/**/*.{py,pyi,typed}")

    if Mix.Utils.stale?(sources, [@package]) or stray?(sources) do
      File.rm_rf!(@package)

      for source <- sources do
        target = Path.join("priv", source)
        File.mkdir_p!(Path.dirname(target))
        File.cp!(source, target)
      end

      File.touch!(@package)
      :ok
    else
      :noop
    end
  end

  # A module that was deleted must not live on in priv/.
  defp stray?(sources) do
    files(@package <> "/**/*.{py,pyi}") -- Enum.map(sources, &Path.join("priv", &1)) != []
  end

  defp files(pattern), do: Path.wildcard(pattern)
end
