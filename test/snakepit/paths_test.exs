defmodule Snakepit.PathsTest do
  # Changes the current directory and the Mix project, which are global.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Config, Error}
  alias Snakepit.Config.Paths

  @project File.cwd!()

  defmodule ScriptAdapter do
    @behaviour Snakepit.Adapter

    @impl true
    def uses_grpc?, do: true

    @impl true
    def executable_path, do: ".venv/bin/python"

    @impl true
    def script_path, do: "test/support/python/plain_server.py"
  end

  defmodule AppAdapter do
    @behaviour Snakepit.Adapter

    @impl true
    def executable_path, do: "python3"

    @impl true
    def script_path, do: {:snakepit, "priv/python/snakepit_bridge/__main__.py"}

    @impl true
    def script_args, do: ["--stdio"]
  end

  setup do
    elsewhere = "/tmp/sp-paths-#{System.pid()}-#{System.unique_integer([:positive])}"
    File.mkdir!(elsewhere)

    on_exit(fn ->
      File.cd!(@project)
      File.rm_rf!(elsewhere)
    end)

    %{elsewhere: elsewhere}
  end

  # The next worker has another OS process.
  defp replace_worker(pool) do
    os_pid = worker_pid(pool)
    signal("KILL", os_pid)
    eventually(fn -> worker_pid(pool) not in [nil, os_pid] end)
  end

  defp worker_pid(pool) do
    {:ok, [worker]} = Snakepit.list_workers(pool)
    if worker.state == :ready, do: worker.os_pid
  end

  defp start_error(options) do
    pool = start_pool_unready!(options)
    {_, log} = with_log(fn -> send(self(), Snakepit.Pool.await_ready(pool, patience())) end)
    assert_received {:error, %Error{reason: :worker_start_failed, message: message}}
    assert log =~ "did not start"
    message
  end

  # For every adapter that supports them, also as a fallback adapter.
  defp refused(options) do
    gpv = Snakepit.Adapters.GenericPythonV2

    messages =
      for adapters <- [[], [adapter: gpv], [adapter: ScriptAdapter, fallback_adapter: gpv]] do
        assert {:error, %Error{reason: :invalid_options, message: message}} =
                 Snakepit.Pool.start_link([name: :refused] ++ adapters ++ options)

        message
      end

    assert [message] = Enum.uniq(messages)
    message
  end

  kinds = [
    native: [server: :native],
    grpcio: [server: :grpcio],
    stdio: [adapter: Snakepit.Adapters.GenericPythonV2],
    tcp: [transport: :tcp],
    script: [adapter: ScriptAdapter, adapter_args: [], env: %{"PYTHONPATH" => "python"}]
  ]

  for {kind, options} <- kinds do
    test "relative paths of a #{kind} pool start from the project, whatever the current directory is",
         %{
           elsewhere: elsewhere
         } do
      capture_log(fn ->
        pool = start_pool!(unquote(Macro.escape(options)))
        File.cd!(elsewhere)
        replace_worker(pool)
        # Its supervisor restarts it there, too.
        supervisor = Process.whereis(pool)
        Process.exit(supervisor, :kill)
        eventually(fn -> Process.whereis(pool) not in [nil, supervisor] end)
        eventually(fn -> Snakepit.Pool.await_ready(pool, patience()) == :ok end)
      end)
    end
  end

  test "a pool that starts in another current directory finds its paths in the project", %{
    elsewhere: elsewhere
  } do
    File.cd!(elsewhere)
    pool = start_pool!()
    assert {:ok, %{"result" => [@project]}} = cwd(pool)

    pool =
      start_pool!(
        root: "test",
        adapter_args: [class: "trouble:Trouble", paths: ["support/python"]]
      )

    assert {:ok, %{"result" => [directory]}} = cwd(pool)
    assert directory == Path.join(@project, "test")
  end

  # PWD is the shell's value; this link is the kernel's.
  defp cwd(pool) do
    with {:ok, %{"pid" => pid}} <- Snakepit.execute("pid", %{}, pool: pool),
         do: {:ok, %{"result" => [File.read_link!("/proc/#{pid}/cwd")]}}
  end

  test "without Mix they start from the directory in which the pool was first started", %{
    elsewhere: elsewhere
  } do
    paths = Enum.flat_map(:code.get_path(), &["-pa", to_string(&1)])
    File.mkdir!(Path.join(elsewhere, "python"))

    File.write!(Path.join(elsewhere, "python/mine.py"), """
    from snakepit_bridge import BuiltinAdapter

    class Mine(BuiltinAdapter):
        pass
    """)

    script = """
    Logger.configure(level: :none)
    {:ok, _} = Application.ensure_all_started(:snakepit)
    python = #{inspect(Path.join(@project, ".venv/bin/python"))}
    args = [class: "mine:Mine", paths: ["python"]]
    pool = {Snakepit.Pool, size: 1, python: python, adapter_args: args, startup_timeout: 300_000}
    {:ok, _} = Supervisor.start_link([pool], strategy: :one_for_one)
    :ok = Snakepit.Pool.await_ready(Snakepit.Pool, 300_000)
    File.cd!("/")
    {:ok, [%{os_pid: os_pid}]} = Snakepit.list_workers()
    System.cmd("kill", ["-KILL", to_string(os_pid)])

    ready = fn ready ->
      case Snakepit.list_workers() do
        {:ok, [%{state: :ready, os_pid: pid}]} when pid not in [nil, os_pid] -> :ok
        {:ok, [%{error: error}]} when error != nil -> raise error
        _ -> Process.sleep(20) && ready.(ready)
      end
    end

    ready.(ready)
    IO.puts("replaced")
    """

    {output, status} =
      System.cmd("elixir", paths ++ ["-e", script], cd: elsewhere, stderr_to_stdout: true)

    assert {status, output} == {0, "replaced\n"}
  end

  test "each project of an umbrella has its own paths, whichever is running", %{
    elsewhere: elsewhere
  } do
    for app <- [:sp_one, :sp_two] do
      directory = Path.join(elsewhere, "#{app}/python")
      File.mkdir_p!(directory)
      File.cp!("test/support/python/trouble.py", Path.join(directory, "#{app}.py"))

      File.write!(Path.join(elsewhere, "#{app}/mix.exs"), """
      defmodule #{Macro.camelize("#{app}")}.MixProject do
        use Mix.Project
        def project, do: [app: #{inspect(app)}, version: "0.1.0"]
      end
      """)
    end

    python = Path.join(@project, ".venv/bin/python")

    in_project = fn app, work ->
      Mix.Project.in_project(app, Path.join(elsewhere, "#{app}"), fn _ -> work.() end)
    end

    start = fn app ->
      in_project.(app, fn ->
        start_pool!(python: python, adapter_args: [class: "#{app}:Trouble", paths: ["python"]])
      end)
    end

    capture_log(fn ->
      one = start.(:sp_one)
      two = start.(:sp_two)
      in_project.(:sp_two, fn -> replace_worker(one) end)
      in_project.(:sp_one, fn -> replace_worker(two) end)
      replace_worker(one)
    end)
  end

  describe "within an application" do
    test "paths, the Python and an adapter's script can be", %{elsewhere: elsewhere} do
      File.cd!(elsewhere)
      capture_log(fn -> start_pool!(adapter_args: [paths: [{:snakepit, "priv/python"}]]) end)

      priv = Application.app_dir(:snakepit, "priv")
      python = Path.join([priv, "sp-test-#{System.unique_integer([:positive])}"])
      File.ln_s!(Path.join(@project, ".venv/bin/python"), python)
      on_exit(fn -> File.rm!(python) end)
      start_pool!(python: {:snakepit, Path.relative_to(python, Path.dirname(priv))})

      env = %{"PYTHONPATH" => Path.join(priv, "python")}
      start_pool!(adapter: AppAdapter, adapter_args: [], env: env)
    end

    test "that does not exist is an error with its name" do
      for options <- [
            [adapter_args: [paths: [{:sp_none, "priv/python"}]]],
            [python: {:sp_none, "bin/python"}]
          ],
          do: assert(refused(options) =~ "there is no application :sp_none")
    end
  end

  test "an option that is not a path is refused" do
    assert {:ok, %{root: @project, python: nil}} = Config.pool([])
    assert {:ok, %{root: "/srv"}} = Config.pool(root: "/srv")
    assert {:ok, %{python: {:a, "b"}}} = Config.pool(python: {:a, "b"})

    for python <- [{:a, "/b"}, {"a", "b"}, {:a, :b}, ~c"python3", 3] do
      assert {:error, %Error{message: message}} = Config.pool(python: python)
      assert message =~ "must be a path, or {:my_app, path}"
    end

    assert {:error, %Error{message: message}} = Config.pool(root: :here)
    assert message =~ ":root"

    for {args, shown} <- [
          {[paths: ["ok", 3]], "{:paths, [\"ok\", 3]}"},
          {[class: 5], "{:class, 5}"},
          {[clas: "a:B"], "the key :clas"}
        ] do
      message = refused(adapter_args: args)
      assert message =~ "adapter_args takes" and message =~ shown
    end
  end

  test "paths are made absolute as by Path.expand/2" do
    for path <- ~w(a a/b ./a ../a a/../../../../b /a /a/../b . .. ~/a a//b/),
        root <- ["/", "/x/y"] do
      assert Paths.absolute(path, root) == Path.expand(path, root)
    end
  end

  test "executables are found in PATH, also by its relative entries, otherwise from the root", %{
    elsewhere: elsewhere
  } do
    assert Paths.find("sh", elsewhere) == {:ok, System.find_executable("sh")}
    tool = Path.join(elsewhere, "bin/sp-tool")
    File.mkdir!(Path.dirname(tool))
    File.write!(tool, "#!/bin/sh\n")
    assert {:error, message} = Paths.find("bin/sp-tool", elsewhere)
    assert message == "#{tool} is not executable"
    assert {:error, message} = Paths.find(Path.dirname(tool), elsewhere)
    assert message == "#{Path.dirname(tool)} is a directory; expected an executable file"
    File.chmod!(tool, 0o755)
    assert Paths.find("bin/sp-tool", elsewhere) == {:ok, tool}
    assert Paths.find(tool, "/") == {:ok, tool}
    assert {:error, message} = Paths.find("sp-tool", elsewhere)
    assert message =~ "neither in PATH nor as #{elsewhere}/sp-tool"

    assert {:error, message} = Paths.find("python" <> <<255>>, elsewhere)
    assert message =~ "is not valid UTF-8"

    path = System.get_env("PATH")
    on_exit(fn -> System.put_env("PATH", path) end)
    System.put_env("PATH", "bin:" <> path)
    assert Paths.find("sp-tool", elsewhere) == {:ok, tool}
    System.put_env("PATH", path)
  end

  test "a .venv whose Python is gone is an error that names it, for both adapters", %{
    elsewhere: elsewhere
  } do
    File.mkdir_p!(Path.join(elsewhere, ".venv/bin"))
    python = Path.join(elsewhere, ".venv/bin/python")
    File.ln_s!("python3", python)
    File.ln_s!("/usr/bin/python3.5-gone", Path.join(elsewhere, ".venv/bin/python3"))

    for adapter <- [Snakepit.Adapters.GRPCPython, Snakepit.Adapters.GenericPythonV2] do
      message = start_error(adapter: adapter, root: elsewhere)
      assert message =~ "#{python} is a symbolic link to /usr/bin/python3.5-gone"
      assert message =~ "mix snakepit.setup"
      message = start_error(adapter: adapter, python: python)
      assert message =~ "#{python} is a symbolic link to /usr/bin/python3.5-gone"
    end

    # Without a .venv the Python in PATH is used, as always.
    File.rm_rf!(Path.join(elsewhere, ".venv"))
    start_pool!(root: elsewhere, adapter_args: [])
  end

  test "a start fails with the reason if the root or the BEAM's directory is gone", %{
    elsewhere: elsewhere
  } do
    root = Path.join(elsewhere, "root")
    assert start_error(root: root) =~ "#{root} does not exist"

    File.mkdir!(root)
    File.cd!(root)
    File.rmdir!(root)
    assert Config.pool([]) |> elem(1) |> Map.fetch!(:root) == @project
    assert start_error([]) =~ "current directory was removed"
  end
end
