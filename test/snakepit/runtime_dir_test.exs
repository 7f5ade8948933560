defmodule Snakepit.RuntimeDirTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Native
  alias Snakepit.Pool.RuntimeDir

  @patience patience()

  setup do
    parent = "/tmp/sp-#{System.pid()}-#{System.unique_integer([:positive])}"
    File.mkdir!(parent)
    on_exit(fn -> File.rm_rf!(parent) end)
    %{parent: parent}
  end

  defp start!(parents) do
    start_supervised!({RuntimeDir, parents: List.wrap(parents)}, id: make_ref())
  end

  defp path!(server) do
    {:ok, path} = RuntimeDir.path(server, @patience)
    path
  end

  # A process with a path, and that path.
  defp worker!(server) do
    test = self()

    pid =
      spawn_link(fn ->
        send(test, {:path, path!(server)})
        Process.sleep(:infinity)
      end)

    assert_receive {:path, path}, @patience
    {pid, path <> ".sock"}
  end

  defp stop(pid) do
    Process.unlink(pid)
    Process.exit(pid, :kill)
  end

  defp listen!(path) do
    {:ok, socket} = :gen_tcp.listen(0, ifaddr: {:local, path})
    :gen_tcp.close(socket)
  end

  # As if its BEAM had been killed.
  defp abandon!(parent) do
    random = Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
    dir = Path.join(parent, "snakepit-" <> random)
    spawn_link(fn -> {:ok, _in_use} = Native.runtime_dir_create(dir) end)
    owner = {:local, Path.join(dir, "owner")}
    eventually(fn -> :gen_tcp.connect(owner, 0, []) == {:error, :econnrefused} end, @patience)
    dir
  end

  test "is created on demand, only for its user, and removed with its process", %{
    parent: parent
  } do
    server = start_supervised!({RuntimeDir, parents: [parent]})
    assert File.ls!(parent) == []
    path = path!(server)
    assert Path.dirname(path!(server)) == Path.dirname(path)
    assert [<<"snakepit-", name::binary-size(16)>>] = File.ls!(parent)
    assert {:ok, _} = Base.decode16(name, case: :lower)
    assert File.stat!(Path.dirname(path)).mode |> Bitwise.band(0o777) == 0o700
    assert File.lstat!(Path.join(Path.dirname(path), "owner")).type == :other
    listen!(path <> ".sock")
    :ok = stop_supervised(RuntimeDir)
    assert File.ls!(parent) == []
  end

  test "the next BEAM removes what a killed one has left, but nothing in use", %{
    parent: parent
  } do
    abandoned = abandon!(parent)
    listen!(Path.join(abandoned, "7.sock"))
    kept = start!(parent) |> path!()
    path!(start!(parent))
    eventually(fn -> not File.exists?(abandoned) end, @patience)
    assert File.exists?(Path.join(Path.dirname(kept), "owner"))
  end

  test "a user's own data is never removed, whatever its name", %{parent: parent} do
    for {name, owner} <- [{"my-results", :file}, {"0123456789abcdef", :file}, {"0000aaaa", :dir}] do
      dir = Path.join(parent, "snakepit-" <> name)
      File.mkdir_p!(Path.join(dir, "sub"))
      File.chmod!(dir, 0o700)
      File.write!(Path.join(dir, "thesis.txt"), "1")
      File.write!(Path.join(dir, "sub/data"), "2")
      owner_path = Path.join(dir, "owner")
      if owner == :file, do: File.write!(owner_path, "me"), else: File.mkdir!(owner_path)
    end

    with_data = abandon!(parent)
    File.write!(Path.join(with_data, "thesis.txt"), "1")
    empty = abandon!(parent)
    path!(start!(parent))
    # The sweep has run here.
    eventually(fn -> not File.exists?(empty) end, @patience)
    Native.runtime_dir_sweep(parent)
    assert length(Path.wildcard(Path.join(parent, "*/thesis.txt"))) == 4
    assert length(Path.wildcard(Path.join(parent, "*/sub/data"))) == 3
  end

  test "is created again if it, or its owner, was removed", %{parent: parent} do
    server = start!(parent)
    first = Path.dirname(path!(server))
    File.rm_rf!(first)
    second = Path.dirname(path!(server))
    assert second != first and File.exists?(Path.join(second, "owner"))
    File.rm!(Path.join(second, "owner"))
    third = Path.dirname(path!(server))
    assert File.exists?(Path.join(third, "owner"))
    assert File.ls!(parent) == [Path.basename(third)]
  end

  test "a worker's socket is removed when the worker ends, however it ends", %{parent: parent} do
    server = start!(parent)
    {kept, kept_path} = worker!(server)
    {killed, killed_path} = worker!(server)
    Enum.each([kept_path, killed_path], &listen!/1)
    stop(killed)
    eventually(fn -> not File.exists?(killed_path) end, @patience)
    assert File.exists?(kept_path)
    stop(kept)
    eventually(fn -> not File.exists?(kept_path) end, @patience)
  end

  test "the next place is used if one is unsuitable, and an error names all of them", %{
    parent: parent
  } do
    file = Path.join(parent, "file")
    File.write!(file, "")
    long = Path.join(parent, String.duplicate("x", 60))
    none = Path.join(parent, "none")
    server = start!([file, none, long, parent])
    assert Path.dirname(Path.dirname(path!(server))) == parent

    server = start!([file, none, long])
    assert {:error, message} = RuntimeDir.path(server, @patience)
    assert message =~ "#{file}: Not a directory"
    assert message =~ "#{none}: No such file or directory"
    assert message =~ "#{long}: its name has more than 60 bytes"
    assert message =~ "TMPDIR"
    assert message =~ "transport: :tcp"
    File.mkdir!(none)
    assert Path.dirname(Path.dirname(path!(server))) == none
  end

  # A machine without any writable place, for the process that follows: root sets it up directly,
  # other users with a user namespace; if neither is allowed, the test is skipped.
  @read_only """
  set -e
  for d in /tmp /dev/shm; do
    [ -d $d ] || continue
    mount --bind $d $d
    mount -o remount,bind,ro $d
    if touch $d/written 2>/dev/null; then exit 1; fi
  done
  exec "$@"
  """
  @unshare for(
             flags <- ["-m", "-rm"],
             unshare = System.find_executable("unshare"),
             command = [flags, "sh", "-c", @read_only, "sh", "true"],
             {_, 0} <- [System.cmd(unshare, command, stderr_to_stdout: true)],
             do: flags
           )

  if @unshare == [], do: @tag(skip: "this user may not mount anything in a namespace")

  test "without a writable place the application starts, and pools that need no directory work" do
    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])

    script = """
    Logger.configure(level: :none)
    patient = [size: 1, startup_timeout: 300_000]
    Application.put_env(:snakepit, :pool_config, pool_size: 1)
    Application.put_env(:snakepit, :grpc_config, transport: :unix)
    {:ok, _} = Application.ensure_all_started(:snakepit)
    {:error, error} = Snakepit.Pool.await_ready(Snakepit.Pool, 300_000)
    IO.puts(error.message)

    for options <- [[transport: :tcp], [adapter: Snakepit.Adapters.GenericPythonV2]] do
      {:ok, pool} = Snakepit.Pool.start_link([name: Second] ++ patient ++ options)
      :ok = Snakepit.Pool.await_ready(Second, 300_000)
      {:ok, %{"status" => "ok"}} = Snakepit.execute("ping", %{}, pool: Second, timeout: 300_000)
      Supervisor.stop(pool)
      IO.puts("served by \#{inspect(options)}")
    end
    """

    flags = Enum.take(@unshare, 1)
    command = flags ++ ["sh", "-c", @read_only, "sh", "elixir"] ++ paths ++ ["-e", script]
    env = [{"TMPDIR", "/tmp"}, {"XDG_RUNTIME_DIR", nil}]
    {output, status} = System.cmd("unshare", command, env: env, stderr_to_stdout: true)
    assert {output, 0} == {output, status}
    assert output =~ "cannot create a directory for the workers' Unix sockets (/tmp: Read-only"
    assert output =~ "transport: :tcp"
    assert output =~ "served by [transport: :tcp]"
    assert output =~ "served by [adapter: Snakepit.Adapters.GenericPythonV2]"
  end

  describe "of a pool" do
    defp runtime_dir(pool) do
      {RuntimeDir, server, _, _} = List.keyfind(Supervisor.which_children(pool), RuntimeDir, 0)

      :sys.get_state(server)
    end

    test "exists only with Unix sockets" do
      pool = start_pool!(transport: :tcp)
      assert runtime_dir(pool).dir == nil
      pool = start_pool!()
      %{path: path} = runtime_dir(pool)
      assert [_socket, _owner] = File.ls!(path)
      capture_log(fn -> :ok = stop_supervised({Snakepit.Pool, pool}) end)
      refute File.exists?(path)
    end

    for server <- [:native, :grpcio] do
      test "is created again for the next #{server} worker, and has no socket of a killed one" do
        pool = start_pool!(server: unquote(server))
        replace_worker(pool)
        %{path: path} = runtime_dir(pool)
        eventually(fn -> Enum.sort(File.ls!(path)) == ["1.sock", "owner"] end, @patience)
        File.rm_rf!(path)
        replace_worker(pool)
        assert File.ls!(runtime_dir(pool).path) |> Enum.sort() == ["2.sock", "owner"]
      end
    end

    defp replace_worker(pool) do
      os_pid = os_pid(pool)

      capture_log(fn ->
        signal("KILL", os_pid)

        eventually(
          fn -> match?({:ok, %{"pid" => pid}} when pid != os_pid, call_pid(pool)) end,
          @patience
        )
      end)
    end

    defp call_pid(pool), do: Snakepit.execute("pid", %{}, pool: pool)
  end
end
