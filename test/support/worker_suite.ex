defmodule Snakepit.Test.WorkerSuite do
  @moduledoc false
  # Every behaviour that workers share, whatever their transport: `use` it with the options of its
  # pools, including `:size`. With `remote: true` these are pools of endpoints, whose servers the tests start:
  # what a pool does with its own processes does not apply to them.

  defmacro __using__(options) do
    quote location: :keep do
      use ExUnit.Case, async: true

      import Snakepit.Test.Pools, except: [start_pool!: 0, start_pool!: 1, start_pool_unready!: 1]

      alias Snakepit.Error
      alias Snakepit.Test.Log

      @moduletag :tmp_dir

      @options Keyword.delete(unquote(options), :remote)
      @remote Keyword.get(unquote(options), :remote, false)
      # These have no streams.
      @stdio @options[:adapter] == Snakepit.Adapters.GenericPythonV2
      @size Keyword.fetch!(@options, :size)
      @patience patience()

      if @remote do
        defp start_pool!(options \\ []), do: Snakepit.Test.Endpoints.start_pool!(options(options))
      else
        defp start_pool!(options \\ []), do: Snakepit.Test.Pools.start_pool!(options(options))

        defp start_pool_unready!(options),
          do: Snakepit.Test.Pools.start_pool_unready!(options(options))
      end

      defp options(options), do: Keyword.merge(@options, options)

      # Keeps this many places busy until a file exists; returns once all of them are taken.
      defp occupy(pool, dir, places \\ @size) do
        until = Path.join(dir, "until")

        tasks =
          for n <- 1..places do
            args = %{started: Path.join(dir, "held#{n}"), until: until}
            options = [pool: pool, timeout: @patience, queue_timeout: @patience]
            task = Task.async(fn -> Snakepit.execute("hold", args, options) end)
            os_pid_in!(args.started)
            task
          end

        {until, tasks}
      end

      defp free({until, tasks}) do
        File.touch!(until)
        await_many(tasks)
      end

      # The process that runs the command that has written this file.
      defp os_pid_in!(path) do
        eventually(fn -> File.exists?(path) end)
        path |> File.read!() |> String.to_integer()
      end

      # For the tests that leave it as it is.
      setup_all do
        %{pool: start_pool!()}
      end

      describe "execute/3" do
        test "returns what the command returned", %{pool: pool} do
          assert {:ok, %{"status" => "ok"}} = Snakepit.execute("ping", %{}, pool: pool)
          assert {:ok, %{"result" => 5}} = Snakepit.execute("add", %{a: 2, b: 3}, pool: pool)
          assert {:ok, %{"result" => 5}} = Snakepit.execute("add_async", [a: 2, b: 3], pool: pool)
        end

        test "carries values both ways, and ten megabytes", %{pool: pool} do
          args = %{
            "text" => "grüße",
            "list" => [1, 2.5, nil, true, "x", [], %{}],
            "map" => %{"a" => %{"b" => [%{"c" => -1}]}},
            "big" => 2 ** 200,
            "bytes" => <<255, 0, 254>>,
            "digits" => "123",
            "large" => String.duplicate("x", 10_000_000)
          }

          assert Snakepit.execute("echo", args, pool: pool) == {:ok, args}
        end

        test "gives 32 callers at once their own answers", %{pool: pool} do
          answers =
            1..32
            |> Enum.map(fn caller ->
              Task.async(fn ->
                for call <- 1..20 do
                  n = caller * 1000 + call
                  options = [pool: pool, timeout: @patience, queue_timeout: @patience]
                  {:ok, %{"n" => answer}} = Snakepit.execute("echo", %{n: n}, options)
                  {n, answer}
                end
              end)
            end)
            |> await_many()
            |> List.flatten()

          assert length(answers) == 640
          assert Enum.all?(answers, fn {asked, answered} -> asked == answered end)
        end

        test "passes the request id, the session and metadata on", %{pool: pool} do
          parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
          options = [pool: pool, request_id: "mine-1", session_id: "s", traceparent: parent]

          assert {:ok, %{"id" => "mine-1", "session" => "s", "metadata" => metadata}} =
                   Snakepit.execute("request", %{}, options ++ [metadata: [tenant: "t1"]])

          assert %{"tenant" => "t1", "traceparent" => ^parent} = metadata

          assert {:ok, %{"id" => made, "session" => nil}} =
                   Snakepit.execute("request", %{}, pool: pool)

          assert byte_size(made) > 8
        end

        test "gives a Python exception with its type, message and traceback", %{pool: pool} do
          assert {:error, %Error{reason: :python_error, command: "fail"} = error} =
                   Snakepit.execute("fail", %{message: "boom"}, pool: pool)

          assert error.pool == pool
          assert error.worker_id =~ "/"
          assert byte_size(error.request_id) > 8
          assert %{type: "ValueError", message: "boom", traceback: traceback} = error.details
          assert traceback =~ "trouble.py"
          assert Exception.message(error) =~ "ValueError: boom"
        end

        test "names unknown commands, and the parameters of known ones", %{pool: pool} do
          assert {:error, %Error{reason: :unknown_command, message: message}} =
                   Snakepit.execute("pong", %{}, pool: pool)

          assert message =~ "ping"

          for args <- [%{}, %{a: 1, c: 2}] do
            assert {:error, %Error{reason: :invalid_args, message: message}} =
                     Snakepit.execute("add", args, pool: pool)

            assert message =~ "a: int"
          end
        end

        test "refuses what cannot be sent, with its path", %{pool: pool} do
          assert {:error, %Error{reason: :invalid_args, message: message}} =
                   Snakepit.execute("echo", %{a: [%{b: self()}]}, pool: pool)

          assert message =~ ~r/^args\.a\[0\]\.b is a pid/

          for args <- [[1], "x", %URI{}] do
            assert {:error, %Error{reason: :invalid_args, message: message}} =
                     Snakepit.execute("echo", args, pool: pool)

            assert message =~ "must be a map"
          end

          assert {:ok, _} = Snakepit.execute("echo", [], pool: pool)
        end

        test "a command that streams is refused", %{pool: pool} do
          assert {:error, %Error{reason: :invalid_args, message: message}} =
                   Snakepit.execute("ping_stream", %{count: 1}, pool: pool)

          assert message =~ "execute_stream"
        end
      end

      describe "the queue" do
        test "refuses at once when it is full", %{tmp_dir: dir} do
          pool = start_pool!(max_queue: 0)
          held = occupy(pool, dir)

          assert {:error, %Error{reason: :pool_saturated, details: %{max_queue: 0}}} =
                   Snakepit.execute("ping", %{}, pool: pool)

          unless @stdio do
            assert {:error, %Error{reason: :pool_saturated}} =
                     Snakepit.execute_stream("ping_stream", %{}, fn _ -> nil end, pool: pool)
          end

          assert Enum.all?(free(held), &match?({:ok, _}, &1))
        end

        test "tells whoever waits too long, and serves the next", %{tmp_dir: dir} do
          pool = start_pool!(queue_timeout: 100)
          held = occupy(pool, dir)

          assert {:error, %Error{reason: :queue_timeout}} =
                   Snakepit.execute("ping", %{}, pool: pool)

          unless @stdio do
            assert {:error, %Error{reason: :queue_timeout}} =
                     Snakepit.execute_stream("ping_stream", %{}, fn _ -> nil end, pool: pool)
          end

          assert {:error, %Error{reason: :timeout, details: %{queued: true}}} =
                   Snakepit.execute("ping", %{},
                     pool: pool,
                     timeout: 50,
                     queue_timeout: :infinity
                   )

          free(held)
          assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool, queue_timeout: @patience)
        end

        test "forgets a caller that dies while it waits", %{tmp_dir: dir} do
          pool = start_pool!(max_queue: 1, queue_timeout: @patience)
          held = occupy(pool, dir)
          waiting = spawn(fn -> Snakepit.execute("ping", %{}, pool: pool) end)
          queued = fn -> pool |> native() |> Snakepit.Native.pool_snapshot() |> elem(0) end
          eventually(fn -> queued.() == 1 end)
          Process.exit(waiting, :kill)
          eventually(fn -> queued.() == 0 end)
          free(held)
        end
      end

      describe "a call" do
        unless @remote do
          test "ends at its deadline, and its worker is replaced", %{tmp_dir: dir} do
            pool = start_pool!(kill_grace: 100)
            started = Path.join(dir, "started")
            {error, timeout} = run_out!("sleep", %{seconds: 600, started: started}, pool: pool)
            assert error.message =~ "#{timeout} ms"
            worker = os_pid_in!(started)
            eventually(fn -> not alive?(worker) end)
            assert :ok = await_ready(pool)
          end
        end

        test "that stops when it is cancelled keeps its worker", %{tmp_dir: dir} do
          pool = start_pool!(kill_grace: @patience)
          [seen, started] = for name <- ~w(seen started), do: Path.join(dir, name)
          run_out!("wait_cancelled", %{seen: seen, started: started}, pool: pool)
          eventually(fn -> File.exists?(seen) end)
          assert alive?(os_pid_in!(started))
        end

        test "is cancelled when its caller dies, and the worker serves the next", %{tmp_dir: dir} do
          pool = start_pool!(kill_grace: @patience)
          [seen, started] = for name <- ~w(seen started), do: Path.join(dir, name)
          args = %{seen: seen, started: started}
          caller = spawn(fn -> Snakepit.execute("wait_cancelled", args, pool: pool) end)
          worker = os_pid_in!(started)
          Process.exit(caller, :kill)
          eventually(fn -> File.exists?(seen) end)
          held = occupy(pool, dir)
          assert worker in Enum.map(free(held), fn {:ok, %{"pid" => pid}} -> pid end)
        end

        test "hears at once when its worker is killed", %{tmp_dir: dir} do
          pool = start_pool!(max_concurrency: 4)

          calls =
            for n <- 1..(4 * @size) do
              args = %{seconds: 600, started: Path.join(dir, "started#{n}")}
              options = [pool: pool, timeout: 600_000, queue_timeout: @patience]
              task = Task.async(fn -> Snakepit.execute("sleep", args, options) end)
              {os_pid_in!(args.started), task}
            end

          for {worker, _task} <- Enum.uniq_by(calls, &elem(&1, 0)),
              do: signal("KILL", worker)

          for {_worker, task} <- calls do
            assert {:error, %Error{reason: :worker_crashed, worker_id: "" <> _}} = await(task)
          end

          assert :ok = await_ready(pool)
          assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
        end

        test "that ends its process is a crashed worker" do
          pool = start_pool!()

          assert {:error, %Error{reason: :worker_crashed, message: message}} =
                   Snakepit.execute("die", %{}, pool: pool)

          assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
        end

        test "has messages above the limit refused by name, both ways" do
          pool = start_pool!(max_message_size: 100_000)

          assert {:error, %Error{reason: :message_too_large, message: message} = error} =
                   Snakepit.execute("echo", %{text: String.duplicate("x", 200_000)}, pool: pool)

          assert message =~ "100000" and message =~ ":max_message_size"
          assert %{limit: 100_000, size: size} = error.details
          assert size >= 200_000

          assert {:error, %Error{reason: :message_too_large, message: message}} =
                   Snakepit.execute("text", %{size: 200_000}, pool: pool)

          assert message =~ "100000" and message =~ "max_message_size"
          assert {:ok, _} = Snakepit.execute("text", %{size: 90_000}, pool: pool)
        end
      end

      describe "a session" do
        test "keeps its state on one worker, until it is ended", %{pool: pool} do
          tally = fn id ->
            {:ok, %{"count" => count, "pid" => pid}} =
              Snakepit.execute_in_session(id, "tally", %{}, pool: pool)

            {count, pid}
          end

          for id <- ~w(a b c d) do
            {1, pid} = tally.(id)
            assert [{2, ^pid}, {3, ^pid}] = for(_ <- 1..2, do: tally.(id))
          end

          :ok = Snakepit.end_session("a", pool: pool)
          assert {1, _} = tally.("a")
          assert {4, _} = tally.("b")
        end

        test "is lost with its worker, which is told once" do
          pool = start_pool!()
          call = fn command -> Snakepit.execute_in_session("s", command, %{}, pool: pool) end
          {:ok, %{"count" => 1, "pid" => worker}} = call.("tally")
          {:error, %Error{reason: :worker_crashed}} = call.("die")
          eventually(fn -> not alive?(worker) end)
          assert {:error, %Error{reason: :session_lost}} = call.("tally")
          assert {:ok, %{"count" => 1}} = call.("tally")
        end
      end

      unless @remote do
        test "prints and logs reach Logger with the worker's id, and break nothing",
             %{pool: pool} do
          Log.follow(pool)
          assert {:ok, _} = Snakepit.execute("noise", %{megabytes: 4}, pool: pool)
          assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
          # A worker's process logs in order: this is its last line.
          lines = Log.await(pool, "from logging")
          worker = ~r/^\[:#{pool}\/\d\] /
          assert Enum.all?(lines, fn {_level, text} -> text =~ worker end)
          assert Enum.any?(lines, fn {_level, text} -> text =~ "] from stderr" end)
          assert {:error, _text} = List.last(lines)
          noise = Enum.count(lines, fn {_level, text} -> text =~ ~r/\] x{1023}$/ end)
          assert noise == 4 * 1024
        end
      end

      describe "a pool that stops" do
        test "lets running calls finish, and takes no new ones", %{tmp_dir: dir} do
          pool = start_pool!(shutdown_timeout: @patience)
          held = occupy(pool, dir)
          {until, tasks} = held

          Task.start_link(fn ->
            eventually(fn ->
              match?(
                {:error, %Error{reason: :pool_stopped}},
                Snakepit.execute("ping", %{}, pool: pool, timeout: 100)
              )
            end)

            File.touch!(until)
          end)

          assert :ok = stop_supervised({Snakepit.Pool, pool})
          assert Enum.all?(await_many(tasks), &match?({:ok, %{"pid" => _}}, &1))
        end

        unless @remote do
          test "takes with it what handlers have started" do
            pool = start_pool!()
            worker = os_pid(pool)
            {:ok, %{"pid" => child}} = Snakepit.execute("child", %{}, pool: pool)
            assert alive?(child)
            :ok = stop_supervised({Snakepit.Pool, pool})
            assert not alive?(worker)
            eventually(fn -> not alive?(child) end)

            assert {:error, %Error{reason: :pool_stopped}} =
                     Snakepit.execute("ping", %{}, pool: pool)
          end
        end

        test "does not wait for ever", %{tmp_dir: dir} do
          pool = start_pool!(shutdown_timeout: 100, kill_grace: 100)
          started = Path.join(dir, "started")
          args = %{seconds: 600, started: started}

          call =
            Task.async(fn -> Snakepit.execute("sleep", args, pool: pool, timeout: 600_000) end)

          worker = os_pid_in!(started)
          :ok = stop_supervised({Snakepit.Pool, pool})
          unless @remote, do: eventually(fn -> not alive?(worker) end)
          assert {:error, %Error{}} = await(call)
        end
      end

      unless @remote do
        describe "a worker that does not start" do
          test "names the Python, the class or the module that was not found" do
            error = start_error(python: "/nowhere/python")
            assert error.message =~ "/nowhere/python" and error.message =~ ":python"
            assert start_error(adapter_args: [class: "nowhere:Class"]).message =~ "nowhere"
            args = [class: "snakepit_bridge:Missing"]
            assert start_error(adapter_args: args).message =~ "Missing"
          end

          test "shows the end of its output", %{tmp_dir: dir} do
            File.write!(Path.join(dir, "broken.py"), "print('last words')\nraise SystemExit(3)\n")
            error = start_error(adapter_args: [class: "broken:Broken", paths: [dir]])
            assert error.message =~ "last words"
          end

          test "is tried again until the cause is gone", %{tmp_dir: dir} do
            args = [class: "late:Late", paths: [dir]]
            pool = start_pool_unready!(adapter_args: args, restart_backoff: {50, 100})
            assert {:error, %Error{reason: :worker_start_failed}} = await_ready(pool)

            File.write!(
              Path.join(dir, "late.py"),
              "from snakepit_bridge import BuiltinAdapter as Late\n"
            )

            eventually(fn -> match?({:ok, _}, Snakepit.execute("ping", %{}, pool: pool)) end)
            eventually(fn -> await_ready(pool) == :ok end)
          end

          defp start_error(options) do
            pool = start_pool_unready!(options)

            assert {:error, %Error{reason: :worker_start_failed} = error} = await_ready(pool)

            eventually(fn ->
              match?(
                {:error, %Error{reason: :worker_start_failed}},
                Snakepit.execute("ping", %{}, pool: pool)
              )
            end)

            error
          end
        end
      end
    end
  end
end
