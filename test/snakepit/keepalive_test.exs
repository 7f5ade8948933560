defmodule Snakepit.KeepaliveTest do
  # Servers from which nothing comes any more, while their connections stay open.
  use ExUnit.Case, async: true

  import Snakepit.Test.{Pools, Servers}

  alias Snakepit.Error
  alias Snakepit.GRPC.Client

  # Without root there are no network namespaces.
  @hosts_missing (cond do
                    System.find_executable("ip") == nil -> "needs ip, of iproute2"
                    System.cmd("id", ["-u"]) != {"0\n", 0} -> "needs root"
                    true -> nil
                  end)

  # As long as no busy machine needs to answer a ping.
  @keepalive [interval: 500, timeout: 3_000]

  for server <- ~w(native grpcio) do
    describe "a #{server} server" do
      @describetag :tmp_dir
      @describetag server: server

      @tag if(@hosts_missing, do: [skip: @hosts_missing], else: [])
      test "whose host vanishes loses its calls and streams", %{server: server, tmp_dir: dir} do
        {within, address} = host!()
        options = [listen: "tcp:#{address}:0", env: [{"SNAKEPIT_SECRET", "s"}], within: within]

        %{address: address} =
          start_server!([server: server, args: ~w(--max-concurrency 2)] ++ options)

        {:ok, channel} = Client.connect(address, secret: "s", keepalive: @keepalive)
        running = running(channel, dir)
        # What arrives there is dropped, and nothing comes back.
        {_, 0} = System.cmd(hd(within), tl(within) ++ ~w(ip link set up0 down))
        for task <- running, do: assert_lost(await(task))
      end

      test "that stands still loses its calls and streams", %{server: server, tmp_dir: dir} do
        %{address: address, os_pid: os_pid} =
          start_server!(server: server, listen: "tcp:127.0.0.1:0", args: ~w(--max-concurrency 2))

        # A process that stands still does not notice the end of this one.
        on_exit(fn -> kill_if_there(os_pid) end)
        {:ok, channel} = Client.connect(address, keepalive: @keepalive)
        running = running(channel, dir)
        suspend!(os_pid)
        for task <- running, do: assert_lost(await(task))
        # The commands themselves do not notice.
        File.touch!(Path.join(dir, "until"))
        signal("CONT", os_pid)
        assert {:ok, %{"pid" => ^os_pid}} = Client.execute(channel, "pid")
      end

      test "that answers pings keeps the calls that take long", %{server: server, tmp_dir: dir} do
        %{address: address} =
          start_server!(server: server, listen: "tcp:127.0.0.1:0", args: ~w(--max-concurrency 2))

        {:ok, channel} = Client.connect(address, keepalive: [interval: 20, timeout: patience()])
        [unary, stream] = running(channel, dir)

        # Time for more pings than grpcio's servers take by default: after the third they close the connection.
        Process.sleep(300)
        File.touch!(Path.join(dir, "until"))
        assert {:ok, _} = await(unary)
        assert :ok = await(stream)
      end
    end
  end

  test "a server that refuses so many pings gets half as many on each further connection" do
    env = [
      {"SNAKEPIT_LISTEN", "tcp:127.0.0.1:0"},
      {"PYTHONPATH", Path.expand("python")}
    ]

    # grpcio's own server takes two pings without data in five minutes.
    script = "test/support/python/late_calls_server.py"
    %{address: address} = start_program!(".venv/bin/python", [script], env)
    times = [interval: 20, timeout: patience()]
    {:ok, channel} = Client.connect(address, calls: false, keepalive: times)

    for interval <- [20, 40, 80] do
      # It waits for `Calls`, which is never opened.
      assert {:error, %Error{reason: :worker_crashed, message: message}} =
               Client.execute(channel, "open", %{}, timeout: patience())

      assert message =~
               "the server does not take a ping every #{interval} ms (:keepalive); the next connections wait #{2 * interval} ms"
    end
  end

  test "the option is false or has two times" do
    %{address: address} = start_server!()

    for right <- [false, [], [interval: 5], [timeout: 60_000, interval: 60_000]] do
      {:ok, channel} = Client.connect(address, keepalive: right)
      assert {:ok, _} = Client.execute(channel, "pid")
    end

    for wrong <- [true, [interval: 0], [times: 1], 5] do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Client.connect(address, keepalive: wrong)

      assert message =~ "[interval: ms, timeout: ms]"
    end
  end

  # A unary call and a stream that run until the file `until` exists.
  defp running(channel, dir) do
    started = fn name -> Path.join(dir, "started-#{name}") end
    args = &%{started: started.(&1), until: Path.join(dir, "until")}
    options = [timeout: 10 * patience()]

    tasks = [
      Task.async(fn -> Client.execute(channel, "hold", args.("unary"), options) end),
      Task.async(fn ->
        Client.execute_stream(channel, "hold_stream", args.("stream"), & &1, options)
      end)
    ]

    for name <- ~w(unary stream), do: eventually(fn -> File.exists?(started.(name)) end)
    tasks
  end

  defp kill_if_there(os_pid),
    do: System.cmd("kill", ["-KILL", to_string(os_pid)], stderr_to_stdout: true)

  defp assert_lost(result) do
    assert {:error, %Error{reason: :worker_crashed, message: message}} = result
    assert message =~ "has not answered a ping within 3000 ms (:keepalive)"
  end

  # A network namespace as a host: what to run a program with to have it there, and its address.
  defp host! do
    number = System.unique_integer([:positive])
    name = "snakepit-#{System.pid()}-#{number}"
    here = "sp" <> Integer.to_string(:erlang.phash2({System.pid(), number}), 36)
    # Of the network for benchmarks, which nobody routes.
    base = "198.18.#{rem(String.to_integer(System.pid()), 256)}"
    first = 4 * rem(number, 64)

    # A server in it, which keeps it alive, may end later: the next host may have the same address.
    on_exit(fn ->
      for command <- [~w(link delete #{here}), ~w(netns delete #{name})],
          do: System.cmd("ip", command, stderr_to_stdout: true)
    end)

    for command <- [
          ~w(netns add #{name}),
          ~w(link add #{here} type veth peer name up0 netns #{name}),
          ~w(address add #{base}.#{first + 1}/30 dev #{here}),
          ~w(link set #{here} up),
          ~w(-n #{name} address add #{base}.#{first + 2}/30 dev up0),
          ~w(-n #{name} link set up0 up),
          ~w(-n #{name} link set lo up)
        ] do
      assert {_, 0} = System.cmd("ip", command, stderr_to_stdout: true)
    end

    # The kernel opens both ends of the link later, on a busy machine by seconds.
    for link <- [["link", "show", here], ["-n", name, "link", "show", "up0"]],
        do: eventually(fn -> elem(System.cmd("ip", link), 0) =~ "state UP" end)

    {["ip", "netns", "exec", name], "#{base}.#{first + 2}"}
  end
end
