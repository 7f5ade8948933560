defmodule Snakepit.Test.Peers do
  @moduledoc false
  # Further nodes on this machine, each a BEAM of its own. They end with the test, or with the tests of a module. The BEAM of
  # the tests controls them over their standard input, and is no node itself.

  import ExUnit.Callbacks
  import Snakepit.Test.Pools, only: [eventually: 1, patience: 0]

  alias Snakepit.Test.Load

  @doc """
  Starts a node and the application there, unless `snakepit: false`. `args` are further arguments of its BEAM, `cookie` is
  its cookie, and `paths` are its code paths.
  """
  def start!(options \\ []) do
    paths = Enum.flat_map(Keyword.get(options, :paths, :code.get_path()), &[~c"-pa", &1])
    cookie = Keyword.get(options, :cookie, "snakepit_test_#{System.pid()}")
    args = Keyword.get(options, :args, [])

    {:ok, control, node} =
      :peer.start(%{
        name: :"snakepit_#{System.pid()}_#{System.unique_integer([:positive])}",
        host: ~c"127.0.0.1",
        longnames: true,
        connection: :standard_io,
        wait_boot: 2 * patience(),
        # Nodes that lose their connection must not leave others because of it.
        args:
          [~c"-kernel", ~c"prevent_overlapping_partitions", ~c"false"] ++
            paths ++ [~c"-setcookie", to_charlist(cookie)] ++ args
      })

    on_exit(fn -> if Process.alive?(control), do: :peer.stop(control) end)
    peer = %{control: control, node: node}
    if Keyword.get(options, :snakepit, true), do: start_application!(peer, options)
    peer
  end

  defp start_application!(peer, options) do
    {:ok, _} = call(peer, :application, :ensure_all_started, [:logger])
    :ok = call(peer, Logger, :configure, [[level: :error]])
    {:ok, _} = call(peer, Task, :start, [Load, :hold_telemetry, []])
    eventually(fn -> call(peer, :ets, :whereis, [:telemetry]) != :undefined end)

    for {key, value} <- [{:root, File.cwd!()} | Keyword.get(options, :settings, [])],
        do: :ok = call(peer, :application, :set_env, [:snakepit, key, value])

    {:ok, _} = call(peer, :application, :ensure_all_started, [:snakepit])
  end

  @doc "Calls a function on a node."
  def call(peer, module, function, args),
    do: :peer.call(peer.control, module, function, args, 2 * patience())

  @doc "Evaluates a block on a node, with the variables of the caller, and returns its value."
  defmacro on(peer, do: block) do
    quote do
      {value, _binding} =
        Snakepit.Test.Peers.call(unquote(peer), Code, :eval_quoted, [
          unquote(Macro.escape(block)),
          binding()
        ])

      value
    end
  end

  @doc "Starts a process on a node that evaluates a block, and returns it."
  defmacro spawn_on(peer, do: block) do
    quote do
      Snakepit.Test.Peers.call(unquote(peer), :erlang, :spawn, [
        Code,
        :eval_quoted,
        [unquote(Macro.escape(block)), binding()]
      ])
    end
  end

  @doc "Takes all ports that the BEAM has left, for the calling process."
  def take_ports do
    open = fn ->
      try do
        Port.open({:spawn_driver, ~c"ram_file_drv"}, [])
      rescue
        SystemLimitError -> nil
      end
    end

    open |> Stream.repeatedly() |> Enum.take_while(& &1)
  end

  @doc "Kills a node as the system does that has no memory left."
  def kill!(peer) do
    os_pid = call(peer, System, :pid, [])
    {_, 0} = System.cmd("kill", ["-KILL", os_pid])
  end
end
