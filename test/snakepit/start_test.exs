defmodule Snakepit.StartTest do
  # How pools and their workers start, and what is reported if they do not.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Error, Pool}
  alias Snakepit.Adapters.{GenericPythonV2, GRPCPython}
  alias Snakepit.Pool.Registry

  @moduletag :tmp_dir
  @patience 60_000
  @secret "sk-v3ry-s3cret"

  setup do
    me = self()
    id = {__MODULE__, me}
    events = for name <- [:ready, :restarted], do: [:snakepit, :worker, name]
    for event <- events, do: :ok = :telemetry.attach({id, event}, event, &__MODULE__.tell/4, me)
    on_exit(fn -> for event <- events, do: :telemetry.detach({id, event}) end)
  end

  def tell([:snakepit, :worker, name], measurements, metadata, pid),
    do: send(pid, {name, metadata.pool, Map.merge(measurements, metadata)})

  for {way, options} <- ways() do
    describe "#{way}:" do
      @describetag options: options

      test "calls wait for the first worker until their own deadline", context do
        {hold, env} = hold(context)

        pool =
          start_pool_unready!(
            context.options ++
              starting(env) ++ [size: 2, queue_timeout: 1, startup_timeout: 75_500]
          )

        call = Task.async(fn -> Snakepit.execute("ping", %{}, pool: pool, timeout: @patience) end)

        for options <- [[], [session_id: "s"]] do
          options = [pool: pool, timeout: 100] ++ options

          assert {:error, %Error{reason: :not_ready, command: "ping", message: message}} =
                   Snakepit.execute("ping", %{}, options)

          assert message =~ "2 of 2 workers are still starting ("
          assert message =~ ":startup_timeout is 75.5 s"
        end

        File.rm!(hold)
        assert {:ok, %{"status" => "ok"}} = Task.await(call, @patience)
      end

      test "calls wait for the workers that may still start, after others have failed", context do
        {hold, env} = hold(context)
        env = Map.put(env, "FAIL", "1")
        pool = start_pool_unready!(context.options ++ starting(env) ++ [size: 2])
        # A second attempt of the first worker has failed as well.
        for attempt <- 1..2,
            do: assert_receive({:restarted, ^pool, %{attempt: ^attempt}}, @patience)

        assert {:error, %Error{reason: :worker_start_failed}} = Pool.await_ready(pool)
        call = Task.async(fn -> Snakepit.execute("ping", %{}, pool: pool, timeout: @patience) end)

        assert {:error, %Error{reason: :not_ready, message: message}} =
                 Snakepit.execute("ping", %{}, pool: pool, timeout: 100)

        assert message =~ "1 of 2 workers is still starting"
        assert message =~ "did not start"
        File.rm!(hold)
        assert {:ok, _} = Task.await(call, @patience)
      end

      test "calls fail at once with the reason if all workers have failed", context do
        options = [size: 2, restart_backoff: {@patience, @patience}]
        pool = start_pool_unready!(context.options ++ starting(%{"FAIL" => "1,2"}) ++ options)

        assert {:error, %Error{reason: :worker_start_failed, message: message}} =
                 Snakepit.execute("ping", %{}, pool: pool, timeout: @patience)

        assert message =~ "there is no model"
      end

      test "calls wait for the next worker if one gets SIGTERM before it can handle it",
           context do
        python = Path.join(context.tmp_dir, "python")

        # The first one gets the signal at once.
        File.write!(python, """
        #!/bin/sh
        test -e #{python}.once || { touch #{python}.once; kill -TERM $$; }
        exec #{Path.expand(".venv/bin/python")} "$@"
        """)

        File.chmod!(python, 0o755)
        pool = start_pool_unready!(context.options ++ starting(%{}) ++ [python: python])
        options = [pool: pool, timeout: @patience]
        assert {:ok, _} = Snakepit.execute("ping", %{}, options)
        assert_received {:restarted, ^pool, %{why: why}}
        assert why =~ "it was killed by SIGTERM"
      end

      test "calls wait for the next worker if one gets SIGTERM while it loads", context do
        {hold, env} = hold(context)
        env = Map.put(env, "BEGUN", hold <> ".begun")
        options = [shutdown_timeout: @patience, kill_grace: @patience]
        options = Keyword.merge(context.options ++ starting(env), options)
        pool = start_pool_unready!(options)
        call = Task.async(fn -> Snakepit.execute("ping", %{}, pool: pool, timeout: @patience) end)
        eventually(fn -> File.exists?(hold <> ".begun") end, @patience)
        [os_pid] = os_pids(pool)
        signal("TERM", os_pid)
        File.rm!(hold)
        assert {:ok, %{"worker_id" => _}} = Task.await(call, @patience)
        eventually(fn -> os_pid not in os_pids(pool) end, @patience)
      end

      test "a worker that exits as soon as it is ready is tried again at growing intervals",
           context do
        {hold, env} = hold(context)
        File.rm!(hold)
        options = starting(env) ++ [restart_backoff: {1, @patience}]
        pool = start_pool_unready!(context.options ++ options)

        for attempt <- 1..3 do
          assert_receive {:ready, ^pool, %{os_pid: os_pid}}, @patience
          # The worker that follows the last one is never ready.
          if attempt == 3, do: File.touch!(hold)
          signal("KILL", os_pid)
          assert_receive {:restarted, ^pool, %{attempt: ^attempt, why: why}}, @patience
          assert is_binary(why)
        end

        assert {:error, %Error{reason: :worker_start_failed, message: message}} =
                 Snakepit.execute("ping", %{}, pool: pool, timeout: @patience)

        assert message =~ ~r/ended \d+ ms after it was ready/
      end

      test "a worker that has answered a call is replaced at once, and calls wait for the next",
           context do
        options = [restart_backoff: {@patience, @patience}]
        pool = start_pool!(context.options ++ starting(%{}) ++ options)

        for _ <- 1..3 do
          assert_receive {:ready, ^pool, %{os_pid: os_pid}}, @patience
          {:ok, _} = Snakepit.execute("ping", %{}, pool: pool, timeout: @patience)
          signal("KILL", os_pid)
          assert_receive {:restarted, ^pool, %{attempt: 1}}, @patience
        end
      end

      test "a worker that is killed because a cancelled call continues has not failed to start",
           context do
        options = [kill_grace: 100, restart_backoff: {1, @patience}]
        pool = start_pool!(context.options ++ options)

        for n <- 1..2 do
          started = Path.join(context.tmp_dir, "started#{n}")
          run_out!("sleep", %{seconds: 600, started: started}, pool: pool)
          assert_receive {:restarted, ^pool, %{attempt: attempt, why: why}}, @patience
          assert {attempt, why} == {1, "a cancelled call continued for 100 ms (:kill_grace)"}
          assert await_ready(pool) == :ok
        end
      end

      test "a failed start is logged in full once, and in one line for each attempt", context do
        test = self()

        log =
          capture_log(fn ->
            options = [size: 4, restart_backoff: {1, 20}]
            env = %{"FAIL" => "1,2,3,4"}
            pool = start_pool_unready!(context.options ++ starting(env) ++ options)
            for _ <- 1..16, do: assert_receive({:restarted, ^pool, _}, @patience)
            {:ok, %{restarts: restarts}} = Snakepit.stats(pool)
            stop_supervised!({Pool, pool})
            send(test, {:pool, pool, restarts})
          end)

        assert_receive {:pool, pool, restarts}
        lines = for line <- String.split(log, "\n"), line =~ "worker #{inspect(pool)}/", do: line
        assert [whole | repeated] = Enum.filter(lines, &(&1 =~ "did not start"))
        assert whole =~ "[error]"
        assert length(repeated) in 12..(restarts + 4)
        assert Enum.all?(repeated, &(&1 =~ "[warning]"))
        assert Enum.any?(repeated, &(&1 =~ ~r/attempt \d+; the same reason as before, \d+ times/))
        # Its output is logged only at the first attempt of each.
        assert length(printed(log, pool, "RuntimeError: there is no model")) == 4
      end

      test "output of a later attempt is logged once the worker is ready", context do
        test = self()

        log =
          capture_log(fn ->
            pool = start_pool_unready!(context.options ++ starting(%{}))
            assert_receive {:ready, ^pool, %{os_pid: os_pid}}, @patience
            signal("KILL", os_pid)
            assert_receive {:ready, ^pool, _}, @patience
            stop_supervised!({Pool, pool})
            send(test, {:pool, pool})
          end)

        assert_receive {:pool, pool}
        assert length(printed(log, pool, "the model is loaded")) == 2
      end

      test "a pool can start with its workers ready", context do
        pool =
          start_pool_unready!(context.options ++ starting(%{}) ++ [size: 2, await_ready: true])

        assert {:ok, %{ready: 2}} = Snakepit.stats(pool)
      end

      test "a pool that awaits its workers fails with their reason, or after its time", context do
        name = :"pool#{System.pid()}_#{System.unique_integer([:positive])}"
        {_hold, env} = hold(context)

        for {env, await, reason, text} <- [
              {%{"FAIL" => "1"}, true, :worker_start_failed, "there is no model"},
              {%{"FAIL" => "1"}, @patience, :worker_start_failed, "there is no model"},
              {env, 50, :not_ready, "within 50 ms"}
            ] do
          options = context.options ++ starting(env) ++ [name: name, size: 1, await_ready: await]
          assert {:error, {failed, _child}} = start_supervised({Pool, options})
          assert %Error{reason: ^reason, pool: ^name, message: message} = failed
          assert message =~ text
          assert Process.whereis(name) == nil
          assert os_pids(name) == []
        end
      end

      test "variables arrive unchanged: empty, of any bytes, and unset",
           context do
        env = %{"EMPTY" => "", "BYTES" => <<255, 254, ?\n>>, "TOWN" => "Łódź", "LANG" => nil}
        pool = start_pool!(context.options ++ starting(env))
        args = %{names: Map.keys(env)}
        assert {:ok, found} = Snakepit.execute("variables", args, pool: pool)
        assert found == env
      end

      test "no crash report shows a variable's value", context do
        env = %{"API_KEY" => @secret}

        log =
          capture_log(fn ->
            pool = start_pool!(context.options ++ starting(env))
            {:ok, %{manager: manager}} = Registry.fetch(pool)
            %{workers: [%{pid: worker}]} = GenServer.call(manager, :overview)

            for process <- [worker, manager] do
              status = :sys.get_status(process)
              refute inspect(status, limit: :infinity) =~ @secret
              refute to_string(:io_lib.format("~p", [status])) =~ @secret
              refute inspect(:sys.get_state(process), limit: :infinity) =~ @secret
              monitor = Process.monitor(process)
              Process.exit(process, :made_to_crash)
              assert_receive {:DOWN, ^monitor, _, _, :made_to_crash}, @patience
            end
          end)

        assert log =~ "made_to_crash"
        refute log =~ @secret
      end
    end
  end

  test "a pool's child specification names variables and shows no value" do
    for env <- [%{"API_KEY" => @secret}, [{"API_KEY", @secret}], [{"API_KEY", @secret} | :x]] do
      shown = inspect(Pool.child_spec(name: P, env: env))
      assert shown =~ "API_KEY"
      refute shown =~ @secret
    end
  end

  defmodule NoServer do
    # Announces that it listens, although nothing does.
    @behaviour Snakepit.Adapter

    @impl true
    def uses_grpc?, do: true
    @impl true
    def executable_path, do: "sh"
    @impl true
    def script_path, do: "-c"
    @impl true
    def script_args, do: ["echo $SNAKEPIT_READY_TOKEN $SNAKEPIT_LISTEN; exit 1"]
  end

  test "a gRPC worker that is killed because its time is up has not started, even if it answers",
       context do
    {hold, env} = hold(context)
    pool = start_pool_unready!(starting(env))
    [worker] = worker_pids(pool)
    ready = Task.async(fn -> await_ready(pool) end)
    # Its time is up when it is connected: the answer of its health check is still to come.
    expire = fn
      :waiting, {:in, {ref, {:ok, _channel}}}, _name when is_reference(ref) ->
        send(self(), :startup_timeout)
        :expired

      state, _event, _name ->
        state
    end

    :ok = :sys.install(worker, {expire, :waiting})
    File.rm!(hold)
    assert_timed_out(Task.await(ready, @patience))
  end

  test "a stdio worker that is killed because its time is up has not started, even if it answers",
       context do
    {hold, env} = hold(context)
    pool = start_pool_unready!([adapter: GenericPythonV2] ++ starting(env))
    [worker] = worker_pids(pool)
    ready = Task.async(fn -> await_ready(pool) end)
    eventually(fn -> :sys.get_state(worker).asked != %{} end)
    :ok = :sys.suspend(worker)
    send(worker, :startup_timeout)
    File.rm!(hold)
    answered? = &match?({ref, {:message, _message}} when is_reference(ref), &1)

    eventually(fn ->
      {:messages, messages} = Process.info(worker, :messages)
      Enum.any?(messages, answered?)
    end)

    :ok = :sys.resume(worker)
    assert_timed_out(Task.await(ready, @patience))
  end

  defp assert_timed_out(ready) do
    assert {:error, %Error{reason: :worker_start_failed, message: message}} = ready
    assert message =~ "(:startup_timeout)"
  end

  test "a worker that exits before it is connected causes no fallback" do
    options = [adapter: NoServer, fallback_adapter: GenericPythonV2, restart_backoff: {1, 1}]
    pool = start_pool_unready!(options ++ [size: 2])
    for attempt <- 1..3, do: assert_receive({:restarted, ^pool, %{attempt: ^attempt}}, @patience)
    assert {:error, %Error{reason: :worker_start_failed}} = Pool.await_ready(pool)
    assert {:ok, %{adapter: NoServer, fallback: nil}} = Snakepit.stats(pool)
  end

  # Defines an adapter with these callbacks.
  defp adapter(callbacks) do
    name = Module.concat(__MODULE__, "Adapter#{System.unique_integer([:positive])}")
    {:module, ^name, _binary, _} = Module.create(name, callbacks, Macro.Env.location(__ENV__))
    name
  end

  defp start_error(callbacks, options \\ []) do
    adapter = adapter(callbacks)

    options =
      [adapter: adapter, adapter_args: [], restart_backoff: {@patience, @patience}] ++ options

    pool = start_pool_unready!(options)

    assert {:error, %Error{reason: :worker_start_failed, message: message}} =
             Snakepit.execute("ping", %{}, pool: pool, timeout: @patience)

    String.replace(message, inspect(adapter), "Mine")
  end

  describe "a user's own adapter" do
    test "that returns no valid command line is named, with what it returned" do
      for {callbacks, text} <- [
            {quote do
               def executable_path, do: "sh"
               def script_args, do: ["--port", 50_051]
             end, ~s(Mine.script_args/0 returned ["--port", 50051]; expected a list of strings)},
            {quote(do: def(executable_path, do: nil)),
             "Mine.executable_path/0 returned nil; expected a path"},
            {quote(do: def(executable_path, do: raise("my own bug"))),
             "Mine.executable_path/0 raised RuntimeError: my own bug (test/snakepit/start_test.exs:"},
            {quote(do: def(executable_path, do: raise(<<255>>))), "raised RuntimeError: <<255>>"},
            {quote(do: def(executable_path, do: throw(:ball))), "Mine.executable_path/0 threw"},
            {quote(do: def(executable_path, do: exit(:stopped))),
             "Mine.executable_path/0 exited"},
            {quote(do: def(command_line(_), do: :ok)), "Mine.command_line/1 returned :ok"},
            {quote(do: def(command_line(_), do: {:ok, {"sh", []}})),
             "Mine.command_line/1 returned an invalid value; expected"},
            {quote(do: def(command_line(_), do: {:ok, {"sh", ["a\0b"], []}})),
             ~S(the argument "a\0b"; expected a string without NUL)},
            {quote(do: def(command_line(_), do: {:ok, {"sh", [1], []}})), "the argument 1;"},
            {quote(do: def(command_line(_), do: {:ok, {"sh", :none, []}})),
             "the arguments :none; expected a list of strings"},
            {quote(do: def(command_line(_), do: {:ok, {nil, [], []}})), "the executable nil"},
            {quote(do: def(command_line(_), do: {:ok, {"sh", [], [{"A=B", "c"}]}})), "A=B"},
            {quote(do: def(command_line(_), do: {:error, "install it"})), "install it"},
            {quote(do: def(command_line(_), do: {:error, <<255>>})), "<<255>>"}
          ] do
        assert start_error(callbacks) =~ text
      end
    end

    test "shows no value of the environment, whatever it raises or returns" do
      env = %{"API_KEY" => @secret}

      for callbacks <- [
            quote(do: def(command_line(%{options: o}), do: raise("no: #{inspect(o.env)}"))),
            quote(do: def(command_line(%{options: o}), do: Map.fetch!(o.env, "B"))),
            quote(do: def(command_line(%{options: o}), do: :none = o.env["API_KEY"])),
            quote(do: def(command_line(%{options: o}), do: {:ok, o.env["API_KEY"]})),
            quote(do: def(command_line(%{options: o}), do: o.env)),
            quote(do: def(command_line(%{options: o}), do: {:ok, {"sh", [o.env], []}}))
          ] do
        refute start_error(callbacks, env: env) =~ @secret
      end
    end

    test "with invalid callbacks starts no pool" do
      for {callback, text} <- [
            {quote(do: def(uses_grpc?, do: :maybe)), "uses_grpc?/0 returned :maybe"},
            {quote(do: def(uses_grpc?, do: raise("no"))), "uses_grpc?/0 raised RuntimeError: no"},
            {quote(do: def(get_port, do: 70_000)), "get_port/0 returned 70000; expected a port"},
            {quote(do: def(supported_commands, do: [:ping])),
             "supported_commands/0 returned [:ping]; expected a list of strings"}
          ],
          key <- [:adapter, :fallback_adapter] do
        broken = adapter([quote(do: def(executable_path, do: "sh")), callback])

        assert {:error, %Error{reason: :adapter_error, message: message}} =
                 Pool.start_link([{:name, :"#{broken}"}, {key, broken}])

        assert message =~ inspect(broken) <> "." <> text
      end
    end

    test "that fails in a call's check returns an error to its caller" do
      callbacks =
        quote do
          defdelegate executable_path, to: GRPCPython
          defdelegate command_line(worker), to: GRPCPython
          defdelegate uses_grpc?, to: GRPCPython
          def validate_command("raises", _args), do: raise("my own bug")
          def validate_command("lies", _args), do: true
          def validate_command("echo", _args), do: :ok
          def validate_command("ping_stream", args), do: validate_command("raises", args)
          def command_timeout("echo", %{n: n}), do: n
          def command_timeout("echo", _args), do: throw(:ball)
        end

      pool = start_pool!(adapter: adapter(callbacks))

      for {command, args, text} <- [
            {"raises", %{}, "validate_command/2 raised RuntimeError: my own bug"},
            {"lies", %{}, "validate_command/2 returned true; expected :ok"},
            {"echo", %{}, "command_timeout/2 threw"},
            {"echo", %{n: "soon"}, ~s(command_timeout/2 returned "soon"; expected a number)},
            {"echo", %{n: -1}, "command_timeout/2 returned -1"}
          ] do
        assert {:error, %Error{reason: :adapter_error, pool: ^pool, message: message} = error} =
                 Snakepit.execute(command, args, pool: pool)

        assert error.command == command
        assert message =~ text
      end

      assert {:error, %Error{reason: :adapter_error}} =
               Snakepit.execute_stream("ping_stream", %{}, & &1, pool: pool)

      assert {:ok, _} = Snakepit.execute("echo", %{n: :infinity}, pool: pool)
    end
  end

  defp printed(log, pool, text),
    do: for(line <- String.split(log, "\n"), line =~ "[#{inspect(pool)}/", line =~ text, do: line)

  # A file: while it exists, a worker does not become ready.
  defp hold(%{tmp_dir: dir}) do
    hold = Path.join(dir, "hold")
    File.touch!(hold)
    {hold, %{"HOLD" => hold}}
  end

  defp starting(env) do
    args = [class: "starting:Starting", paths: ["test/support/python"]]
    # A worker that is held ignores requests to stop.
    [adapter_args: args, env: env, shutdown_timeout: 100, kill_grace: 100]
  end
end
