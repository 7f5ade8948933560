defmodule Snakepit.OrphansTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  @moduletag :tmp_dir

  # A BEAM of its own, so that it can be killed.
  for {command, args} <- [{"sleep", "seconds: 600, "}, {"sleep_holding_the_gil", ""}] do
    test "no worker outlives a killed BEAM, not even in #{command}", %{tmp_dir: dir} do
      started = Path.join(dir, "started")

      script = """
      {:ok, _} = Application.ensure_all_started(:snakepit)
      args = [class: "trouble:Trouble", paths: [#{inspect(Path.expand("test/support/python"))}]]
      options = [size: 2, startup_timeout: 120_000, queue_timeout: 60_000, timeout: :infinity]
      {:ok, _} = Snakepit.Pool.start_link([adapter_args: args] ++ options)
      :ok = Snakepit.Pool.await_ready(Snakepit.Pool, 120_000)
      {:ok, %{"pid" => one}} = Snakepit.execute("pid")
      {:ok, %{"pid" => two}} = Snakepit.execute("pid")
      IO.puts("workers #{"\#{one} \#{two}"} beam #{"\#{System.pid()}"} end")
      Snakepit.execute("#{unquote(command)}", %{#{unquote(args)}started: #{inspect(started)}})
      """

      port = start_beam(script)
      [one, two, beam] = pids(port, "")
      eventually(fn -> File.exists?(started) end)
      assert alive?(one) and alive?(two)
      signal("KILL", beam)
      eventually(fn -> not alive?(one) and not alive?(two) end)
    end
  end

  test "nor does a process that a command has started, with each kind of worker" do
    paths = inspect(Path.expand("test/support/python"))

    script = """
    {:ok, _} = Application.ensure_all_started(:snakepit)

    children =
      for {name, way} <- #{inspect(ways())} do
        args = [class: "trouble:Trouble", paths: [#{paths}]]
        {:ok, _} = Snakepit.Pool.start_link([name: name, size: 1, adapter_args: args] ++ way)
        :ok = Snakepit.Pool.await_ready(name, 60_000)
        {:ok, %{"pid" => child}} = Snakepit.execute("child", %{}, pool: name)
        child
      end

    IO.puts("workers \#{Enum.join(children, " ")} beam \#{System.pid()} end")
    Process.sleep(:infinity)
    """

    port = start_beam(script)
    {children, [beam]} = port |> pids("") |> Enum.split(-1)
    assert length(children) == 3 and Enum.all?(children, &alive?/1)
    signal("KILL", beam)
    eventually(fn -> not Enum.any?(children, &alive?/1) end, 20_000)
  end

  test "a node that stops closes the generators of its streams", %{tmp_dir: dir} do
    closed = Path.join(dir, "closed")

    script = """
    args = [class: "trouble:Trouble", paths: [#{inspect(Path.expand("test/support/python"))}]]
    times = [shutdown_timeout: 200, kill_grace: 60_000, queue_timeout: 60_000, timeout: :infinity]
    Application.put_env(:snakepit, :adapter_args, args)
    Application.put_env(:snakepit, :pool_config, [pool_size: 2] ++ times)
    Application.put_env(:snakepit, :grpc_config, server_startup_timeout: 120_000)
    {:ok, _} = Application.ensure_all_started(:snakepit)
    :ok = Snakepit.Pool.await_ready(Snakepit.Pool, 120_000)
    {:ok, %{"pid" => one}} = Snakepit.execute("pid")
    {:ok, %{"pid" => two}} = Snakepit.execute("pid")

    Snakepit.execute_stream("endless", %{closed: #{inspect(closed)}}, fn
      %{"index" => 0} -> IO.puts("workers #{"\#{one} \#{two}"} beam #{"\#{System.pid()}"} end")
      _ -> nil
    end)

    # A script that ends halts the node, without time for anything else.
    Process.sleep(:infinity)
    """

    port = start_beam(script)
    [one, two, beam] = pids(port, "")
    signal("TERM", beam)
    assert_receive {^port, {:exit_status, _status}}, 3 * patience()
    assert File.exists?(closed)
    eventually(fn -> not alive?(one) and not alive?(two) end)
  end

  defp start_beam(script) do
    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])

    Port.open({:spawn_executable, System.find_executable("elixir")}, [
      :binary,
      :exit_status,
      args: paths ++ ["-e", script]
    ])
  end

  defp pids(port, seen) do
    case Regex.run(~r/workers ([\d ]+) beam (\d+) end/, seen) do
      [_all, workers, beam] ->
        Enum.map(String.split(workers) ++ [beam], &String.to_integer/1)

      nil ->
        # It starts a BEAM and pools.
        assert_receive {^port, {:data, data}}, 3 * patience()
        pids(port, seen <> data)
    end
  end
end
