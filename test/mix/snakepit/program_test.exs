defmodule Mix.Snakepit.ProgramTest do
  # Changes variables of the environment.
  use ExUnit.Case

  import Snakepit.Test.Pools, only: [eventually: 1]

  alias Mix.Snakepit.Program
  alias Snakepit.Test.{OS, Peers}
  require Peers

  @moduletag :tmp_dir
  @sh System.find_executable("sh")
  @sleep System.find_executable("sleep")
  @patience 60_000
  # Of all bytes that a variable can have, in an order that is not valid UTF-8.
  @bytes for byte <- 255..1//-1, into: "", do: <<byte>>

  test "returns the output of both streams as text, and the status", %{tmp_dir: dir} do
    assert run("printf 'a\\377'; echo b >&2; exit 3", dir) == {"a\uFFFDb\n", 3}
  end

  test "kills a program that hangs and what it has started, where no program `kill` is installed",
       %{tmp_dir: dir} do
    only_sh!(dir)
    code = "#{@sleep} 1000 & echo $$ $!; wait"

    # It is killed at once if it has not printed yet, on a slow machine.
    {output, :timeout} =
      eventually(fn ->
        with {"", :timeout} <- run(code, dir, timeout: 500), do: nil
      end)

    for os_pid <- String.split(output), do: eventually(fn -> not OS.alive?(os_pid) end)
  end

  test "says why a program cannot be started", %{tmp_dir: dir} do
    path = Path.join(dir, "none")

    assert Program.run(path, [], cd: dir, timeout: @patience) ==
             {"#{path}: no such file or directory", 126}

    gone = Path.join(dir, "gone")
    assert run("exit", gone) == {"the directory #{gone} does not exist", 126}

    peer = Peers.start!(args: [~c"+Q", ~c"1024"], snakepit: false)
    sh = @sh

    result =
      Peers.on peer do
        Snakepit.Test.Peers.take_ports()
        Mix.Snakepit.Program.run(sh, [], cd: "/", timeout: 60_000)
      end

    assert result == {"#{sh}: a system limit has been reached", 126}
  end

  describe "passes the bytes of variables" do
    for encoding <- ~w(+fnu +fnl) do
      test "in a BEAM with #{encoding}", %{tmp_dir: dir} do
        peer = Peers.start!(args: [to_charlist(unquote(encoding))], snakepit: false)
        env = %{"BYTES" => @bytes <> "\n\n", "TEXT" => "ü€\n", "HOME" => nil}
        code = ~S(printf '%s|' "$BYTES" "$TEXT" "${HOME-unset}" > "$1")
        file = Path.join(dir, "variables")
        args = ["-c", code, "sh", file]
        options = [cd: dir, env: env, timeout: @patience]
        assert Peers.call(peer, Program, :run, [@sh, args, options]) == {"", 0}
        assert File.read!(file) == "#{@bytes}\n\n|ü€\n|unset|"
      end
    end
  end

  defp run(code, dir, options \\ []),
    do: Program.run(@sh, ["-c", code], Keyword.merge([cd: dir, timeout: @patience], options))

  defp only_sh!(dir) do
    File.ln_s!(@sh, Path.join(dir, "sh"))
    Snakepit.Test.Environment.put([{"PATH", dir}])
  end
end
