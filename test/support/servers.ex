defmodule Snakepit.Test.Servers do
  @moduledoc false
  # Servers that no pool has started.

  import ExUnit.Assertions

  @doc """
  Starts `python -m snakepit_bridge` with the commands of the tests, and returns its address and its OS process. It ends
  with the calling process. Options: `:listen`, `:server`, `:args`, `:env`, and `:within`, a program that runs it.
  """
  def start_server!(options \\ []) do
    socket = "snakepit-#{System.pid()}-#{System.unique_integer([:positive])}.sock"
    listen = options[:listen] || "unix:" <> Path.join(System.tmp_dir!(), socket)

    args =
      ~w(-u -m snakepit_bridge --adapter trouble:Trouble --import-path test/support/python) ++
        ["--listen", listen, "--server", options[:server] || "native"]

    env = [{"PYTHONPATH", Path.expand("python")} | options[:env] || []]

    start_program!(
      ".venv/bin/python",
      args ++ (options[:args] || []),
      env,
      options[:within] || []
    )
  end

  @doc "Starts a program that announces its address as a worker does."
  def start_program!(program, args, env, within \\ []) do
    [program | args] = within ++ [Path.expand(program) | args]

    port =
      Port.open({:spawn_executable, System.find_executable(program)}, [
        :binary,
        line: 1000,
        args: args,
        env:
          for(
            {name, value} <- [{"SNAKEPIT_READY_TOKEN", "ready"} | env],
            do: {to_charlist(name), to_charlist(value)}
          )
      ])

    assert_receive {^port, {:data, {:eol, "ready " <> address}}}
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    %{address: address, os_pid: os_pid}
  end
end
