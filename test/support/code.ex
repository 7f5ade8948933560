defmodule Snakepit.Test.Code do
  @moduledoc false
  # Python code in a test's directory that changes while its pool runs.

  import Snakepit.Test.Pools

  @doc "Starts a pool of the code in `dir`, which must exist."
  def start_pool!(dir, options), do: await!(start_pool_unready!(dir, options))

  def start_pool_unready!(dir, options) do
    # From time and size Python cannot tell that a file was written twice in one second.
    env = %{"PYTHONDONTWRITEBYTECODE" => "1"}
    args = [class: "app_code:Code", paths: [dir]]
    options = Keyword.merge([adapter_args: args, env: env], options)
    Snakepit.Test.Pools.start_pool_unready!(options)
  end

  defp await!(pool) do
    :ok = await_ready(pool)
    pool
  end

  @doc "Writes the code, with `broken` in front of it."
  def write!(dir, version, broken \\ "") do
    File.write!(Path.join(dir, "app_code.py"), """
    #{broken}
    import os
    import time
    from pathlib import Path

    from snakepit_bridge import BuiltinAdapter, Context, command

    HERE = Path(#{inspect(dir)})


    def wait_while(name):
        while (HERE / name).exists():
            time.sleep(0.01)


    (HERE / f"importing{os.getpid()}").touch()
    wait_while("held_import")


    class Code(BuiltinAdapter):
        @command
        def version(self):
            return {"version": #{inspect(version)}, "pid": os.getpid()}

        @command
        def wait_while(self, name: str):
            (HERE / f"{name}-started").touch()
            wait_while(name)
            return {"pid": os.getpid()}

        @command
        def count(self, name: str):
            for n in range(100):
                yield {"n": n, "pid": os.getpid()}
                if n == 0:
                    wait_while(name)

        @command
        def turns(self, context: Context):
            context.session["turns"] = context.session.get("turns", 0) + 1
            return {"turns": context.session["turns"]}
    """)
  end

  @doc "Makes workers wait while they import the code, until `open_import!/1`."
  def hold_import!(dir), do: File.touch!(Path.join(dir, "held_import"))
  def open_import!(dir), do: File.rm!(Path.join(dir, "held_import"))

  @doc "The processes that have begun to import the code."
  def importing(dir) do
    for path <- Path.wildcard(Path.join(dir, "importing*")) do
      "importing" <> pid = Path.basename(path)
      String.to_integer(pid)
    end
  end

  @doc "The version that a call finds, and its process."
  def version(pool) do
    {:ok, %{"version" => version, "pid" => pid}} = Snakepit.execute("version", %{}, pool: pool)
    {version, pid}
  end

  @doc "Calls until it receives `:stop` or a call fails. Returns the errors."
  def repeat(pool) do
    receive do
      :stop -> []
    after
      0 ->
        case Snakepit.execute("version", %{}, pool: pool) do
          {:ok, _version} -> repeat(pool)
          {:error, error} -> [error]
        end
    end
  end
end
