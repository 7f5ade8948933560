for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "CommandsOver#{kind}Test") do
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @way way
    @moduletag :tmp_dir

    defp pool(code, dir) do
      File.write!(Path.join(dir, "described.py"), code)
      args = [class: "described:Described", paths: [dir]]
      start_pool!([adapter_args: args] ++ @way)
    end

    # Repeats until a worker answers in time, on a slow machine.
    defp commands(pool) do
      {:ok, commands} =
        eventually(fn ->
          with({:error, %Error{reason: :timeout}} <- Snakepit.commands(pool), do: nil)
        end)

      commands
    end

    test "a command is listed with its parameters, its docstring and whether it streams", %{
      tmp_dir: dir
    } do
      pool =
        pool(
          """
          from __future__ import annotations
          from typing import Any, Optional
          from snakepit_bridge import Adapter, Context, command

          class Described(Adapter):
              @command
              def greet(self, name: str, times: int = 1, *, context: Context) -> str:
                  \"""Greets somebody.

                  Politely.
                  \"""

              @command
              def count(self, to, step=None, **rest: Optional[int]):
                  yield to

              @command(name="fetch-all")
              async def fetch(self, url: str = "https://a.b"): ...

              @command
              async def ticks(self):
                  yield 1
          """,
          dir
        )

      assert commands(pool) == [
               %{
                 name: "count",
                 signature: "count(to, step=None, **rest: Optional[int])",
                 parameters: [
                   %{name: "to", type: nil, required: true, default: nil},
                   %{name: "step", type: nil, required: false, default: "None"},
                   %{name: "**rest", type: "Optional[int]", required: false, default: nil}
                 ],
                 doc: nil,
                 streams: true,
                 async: false,
                 batch: nil
               },
               %{
                 name: "fetch-all",
                 signature: "fetch-all(url: str = 'https://a.b')",
                 parameters: [
                   %{name: "url", type: "str", required: false, default: "'https://a.b'"}
                 ],
                 doc: nil,
                 streams: false,
                 async: true,
                 batch: nil
               },
               %{
                 name: "greet",
                 signature: "greet(name: str, times: int = 1)",
                 parameters: [
                   %{name: "name", type: "str", required: true, default: nil},
                   %{name: "times", type: "int", required: false, default: "1"}
                 ],
                 doc: "Greets somebody.\n\nPolitely.",
                 streams: false,
                 async: false,
                 batch: nil
               },
               %{
                 name: "ticks",
                 signature: "ticks()",
                 parameters: [],
                 doc: nil,
                 streams: true,
                 async: true,
                 batch: nil
               }
             ]

      assert {:ok, %{commands: %{"greet" => "greet(name: str, times: int = 1)\n\nGreets" <> _}}} =
               eventually(fn -> with({:ok, %{commands: nil}} <- Snakepit.info(pool), do: nil) end)
    end

    test "a thousand commands are listed", %{tmp_dir: dir} do
      pool =
        pool(
          """
          from snakepit_bridge import Adapter, command

          def numbered(number):
              def run(self, value: int = number):
                  return value
              run.__doc__ = f"Command {number}. " + "x" * 200
              return command(name=f"command_{number:04}")(run)

          Described = type("Described", (Adapter,), {f"c{n}": numbered(n) for n in range(1000)})
          """,
          dir
        )

      commands = commands(pool)
      assert length(commands) == 1000
      assert %{name: "command_0000", parameters: [%{default: "0"}]} = hd(commands)
      assert %{name: "command_0999", parameters: [%{default: "999"}]} = List.last(commands)
    end

    test "an error says that no worker is ready", %{tmp_dir: dir} do
      options = [adapter_args: [class: "nowhere:Nothing", paths: [dir]]] ++ @way
      pool = start_pool_unready!(options)
      assert {:error, %Error{reason: :worker_start_failed}} = await_ready(pool)
      assert {:error, %Error{reason: :not_ready, pool: ^pool}} = Snakepit.commands(pool)
    end
  end
end

defmodule Snakepit.CommandsTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  defmodule Silent do
    @behaviour Snakepit.Adapter

    @impl true
    def executable_path, do: ".venv/bin/python"

    @impl true
    def script_path, do: Path.expand("test/support/python/lying_stdio.py")
  end

  test "an error says that a program does not list its commands" do
    pool = start_pool!(adapter: Silent)

    error =
      eventually(fn ->
        with({:error, %Error{reason: :timeout}} <- Snakepit.commands(pool), do: nil)
      end)

    assert {:error, %Error{reason: :unknown_command, pool: ^pool, message: message}} = error
    assert message =~ "guides/adapters.md"
  end

  test "an error says that there is no such pool" do
    assert {:error, %Error{reason: :pool_stopped}} = Snakepit.commands(:no_such_pool)
  end
end
