defmodule Snakepit.ReleaseTest do
  # A release of an application that depends on this project: built, moved, run from / by another
  # user, and stopped by SIGTERM under load.
  use ExUnit.Case, async: true

  import Bitwise, only: [&&&: 2]
  import Snakepit.Test.Pools, only: [eventually: 2]

  alias Snakepit.Test.{OS, Project}

  @patience 120_000
  @nobody 65_534
  @callers 12

  @files %{
    "config/runtime.exs" => """
    import Config

    config :my_app, MyApp.Python,
      name: MyApp.Python,
      size: 2,
      max_concurrency: 4,
      python: System.fetch_env!("PYTHON"),
      adapter_args: [class: "my_commands:MyCommands", paths: [{:my_app, "priv/python"}]],
      shutdown_timeout: #{@patience},
      await_ready: true
    """,
    "priv/python/my_commands.py" => """
    import os

    from snakepit_bridge import Adapter, command

    OUT = os.environ["OUT"]


    def note(text):
        # One write, so that lines of several workers do not mix.
        with open(os.path.join(OUT, "ran"), "ab", buffering=0) as log:
            log.write(f"{text}\\n".encode())


    class MyCommands(Adapter):
        @command
        def work(self, name: str) -> str:
            note(name)
            return name

        @command
        def held(self, name: str) -> str:
            note(name)
            # Opens when the test does.
            with open(os.path.join(OUT, name)) as fifo:
                return fifo.read()

        @command
        def held_stream(self, name: str):
            yield "first"
            yield self.held(name)
    """,
    # The callers end after the pool, which is started after them.
    "lib/my_app/application.ex" => """
    defmodule MyApp.Application do
      use Application

      def start(_type, _args) do
        children = [
          {Task.Supervisor, name: MyApp.Callers},
          {Snakepit.Pool, Application.fetch_env!(:my_app, MyApp.Python)},
          {Task, &MyApp.Callers.start/0}
        ]

        Supervisor.start_link(children, strategy: :one_for_one)
      end
    end
    """,
    "lib/my_app/callers.ex" => """
    defmodule MyApp.Callers do
      @options [pool: MyApp.Python, timeout: :infinity, queue_timeout: :infinity]

      def start do
        run(fn -> log("unary", inspect(call("held", "unary"))) end)
        run(fn -> log("stream", inspect(stream())) end)
        for id <- 1..#{@callers}, do: run(fn -> call_until_stopped(id, 1) end)
      end

      # Ends by itself only: it traps the supervisor's exit signal.
      defp run(fun) do
        {:ok, _} =
          Task.Supervisor.start_child(
            __MODULE__,
            fn ->
              Process.flag(:trap_exit, true)
              fun.()
            end,
            shutdown: :infinity
          )
      end

      defp call_until_stopped(id, count) do
        name = "\#{id}.\#{count}"
        log(id, "call " <> name)
        result = call("work", name)
        log(id, "result " <> name <> " " <> inspect(result))
        if match?({:ok, _}, result), do: call_until_stopped(id, count + 1)
      end

      defp call(command, name) do
        case Snakepit.execute(command, %{name: name}, @options) do
          {:ok, %{"result" => result}} -> {:ok, result}
          {:error, error} -> {:error, error.reason}
        end
      end

      defp stream do
        "held_stream"
        |> Snakepit.stream(%{name: "stream"}, @options)
        |> Enum.map(& &1["result"])
      end

      defp log(file, line) do
        path = Path.join(System.fetch_env!("OUT"), "caller_\#{file}")
        File.write!(path, line <> "\\n", [:append])
      end
    end
    """
  }

  setup_all do
    # A short path, since sockets are below it.
    dir = Path.join(tmp_dir(), "rel#{System.unique_integer([:positive])}_#{System.pid()}")
    on_exit(fn -> File.rm_rf!(dir) end)
    project = Project.write!(Path.join(dir, "my_app"), :my_app, @files, mod: "MyApp.Application")

    {output, status} = Project.mix(project, ["release", "--path", Path.join(dir, "built")])
    assert status == 0, output
    File.rename!(Path.join(dir, "built"), Path.join(dir, "moved"))
    # What the release needs must be in it.
    File.rm_rf!(project)
    # Whatever the file mode mask is, another user may read it.
    {_, 0} = System.cmd("chmod", ["-R", "go+rX", dir])
    {:ok, dir: dir}
  end

  test "moved, run from / and stopped by SIGTERM under load loses and leaves nothing", %{dir: dir} do
    run_and_stop(dir, "own", System.find_executable("python3"))
  end

  {uid, 0} = System.cmd("id", ["-u"])
  as_nobody = ~w(--reuid=#{@nobody} --regid=#{@nobody} --clear-groups --no-new-privs)

  # A Python in root's home directory is not for others.
  python =
    if String.trim(uid) == "0" and System.find_executable("setpriv") do
      Enum.find([System.find_executable("python3"), "/usr/bin/python3"], fn python ->
        code = "import sys; sys.exit(sys.version_info < (3, 9))"

        {_, status} =
          System.cmd("setpriv", as_nobody ++ [python, "-c", code], stderr_to_stdout: true)

        status == 0
      end)
    end

  unless python do
    @tag skip:
           "only root can run it as another user: with setpriv, and a Python that anybody may run"
  end

  @tag python: python, as_user: ["setpriv" | as_nobody]
  test "does so as a user who can change nothing of it", %{dir: dir} = test do
    run_and_stop(dir, "nobody", test.python, test.as_user)
  end

  defp run_and_stop(dir, name, python, as_user \\ []) do
    out = Path.join(dir, name <> "_out")
    tmp = Path.join(dir, name)
    for path <- [out, tmp], do: File.mkdir!(path)
    for path <- [out, tmp], do: File.chmod!(path, 0o777)
    fifos = for call <- ~w(unary stream), do: Path.join(out, call)
    {_, 0} = System.cmd("mkfifo", ["-m", "666" | fifos])

    port = start(dir, as_user, PYTHON: python, OUT: out, TMPDIR: tmp)
    {:os_pid, beam} = Port.info(port, :os_pid)
    on_exit(fn -> if OS.alive?(beam), do: System.cmd("kill", ["-KILL", "#{beam}"]) end)

    # Under load, with both held calls running.
    wait(port, fn ->
      length(lines(out, "ran")) > 200 and ["stream", "unary"] -- lines(out, "ran") == []
    end)

    assert beam in processes(tmp)
    assert length(processes(tmp)) >= 3
    assert [_ | _] = sockets(tmp)
    assert ["snakepit-" <> _] = File.ls!(tmp)
    if as_user != [], do: assert(owner(beam) == @nobody)

    {_, 0} = System.cmd("kill", ["-TERM", "#{beam}"])

    # The pool takes no calls any more, and the held ones still run.
    wait(port, fn -> Enum.any?(lines(out, "caller_*"), &(&1 =~ ":pool_stopped")) end)
    assert OS.alive?(beam)
    assert lines(out, "caller_unary") == []
    for fifo <- fifos, do: File.write!(fifo, "finished")

    assert {0, output} = await_exit(port, "")
    refute output =~ "error", output
    assert lines(out, "caller_unary") == [~s({:ok, "finished"})]
    assert lines(out, "caller_stream") == [~s(["first", "finished"])]
    check_calls(out)

    eventually(fn -> processes(tmp) == [] end, @patience)
    assert sockets(tmp) == []
    assert File.ls!(tmp) == []
  end

  # A folder that any user can enter, where there is one: that of the variable may be private.
  defp tmp_dir do
    Enum.find([System.tmp_dir!(), "/tmp", "/var/tmp"], System.tmp_dir!(), &enterable?/1)
  end

  defp enterable?(dir) do
    parents = dir |> Path.expand() |> Path.split() |> Enum.scan(&Path.join(&2, &1))
    Enum.all?(parents, &match?({:ok, %{mode: mode}} when (mode &&& 0o001) != 0, File.stat(&1)))
  end

  # Each call has one result; it has run once if that is a value, and never if it is :pool_stopped.
  defp check_calls(out) do
    ran = Enum.frequencies(lines(out, "ran"))

    for id <- 1..@callers do
      lines = lines(out, "caller_#{id}")
      assert rem(length(lines), 2) == 0
      pairs = Enum.chunk_every(lines, 2)
      {completed, [refused]} = Enum.split(pairs, -1)

      for ["call " <> name, result] <- completed do
        assert result == "result #{name} {:ok, #{inspect(name)}}"
        assert ran[name] == 1
      end

      assert ["call " <> name, result] = refused
      assert result == "result #{name} {:error, :pool_stopped}"
      refute Map.has_key?(ran, name)
    end
  end

  defp start(dir, as_user, variables) do
    variables =
      [
        PATH: "/usr/local/bin:/usr/bin:/bin",
        LANG: "C.UTF-8",
        ERL_CRASH_DUMP_SECONDS: "0",
        # Without it the release starts epmd, which stays.
        RELEASE_DISTRIBUTION: "none"
      ] ++ variables

    assignments = for {name, value} <- variables, do: "#{name}=#{value}"
    release = [Path.join(dir, "moved/bin/my_app"), "start"]
    # Each of these replaces itself with the next, so that the port's process is the BEAM.
    args = ["-i" | assignments] ++ as_user ++ release

    Port.open({:spawn_executable, System.find_executable("env")}, [
      :binary,
      :exit_status,
      :stderr_to_stdout,
      args: args,
      cd: "/"
    ])
  end

  # Fails at once, with its output, if the release has ended.
  defp wait(port, condition) do
    eventually(
      fn ->
        if Port.info(port) == nil,
          do: flunk("the release has ended: #{inspect(await_exit(port, ""))}")

        condition.()
      end,
      @patience
    )
  end

  defp await_exit(port, output) do
    receive do
      {^port, {:data, data}} -> await_exit(port, output <> data)
      {^port, {:exit_status, status}} -> {status, output}
    after
      @patience -> flunk("the release has not ended: #{output}")
    end
  end

  defp lines(out, pattern) do
    for path <- Path.wildcard(Path.join(out, pattern)),
        line <- path |> File.read!() |> String.split("\n", trim: true),
        do: line
  end

  # Whatever the release has started has its environment.
  defp processes(tmp) do
    for path <- Path.wildcard("/proc/[0-9]*/environ"),
        {:ok, environment} <- [File.read(path)],
        ("TMPDIR=" <> tmp) in String.split(environment, <<0>>),
        do: path |> Path.dirname() |> Path.basename() |> String.to_integer()
  end

  defp sockets(tmp) do
    for line <- "/proc/net/unix" |> File.read!() |> String.split("\n"),
        line =~ tmp <> "/",
        do: line
  end

  defp owner(os_pid), do: File.stat!("/proc/#{os_pid}").uid
end
