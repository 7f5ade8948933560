defmodule Snakepit.RetryTest do
  # Calls that are made again, within their one deadline.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.{Error, Retry, Telemetry}
  alias Snakepit.Config.Options
  alias Snakepit.Test.{Endpoints, Servers}

  defmodule Refusing do
    use Snakepit.Test.ServerAdapter, script: "refusing_server.py"
  end

  @moduletag :tmp_dir

  setup_all do
    # One place, which a test can occupy, and a queue without places.
    crashing = [restart_backoff: {10, 50}]

    %{
      pools: for({kind, way} <- ways(), do: {kind, start_pool!(way ++ crashing)}),
      busy: start_pool!(max_queue: 0)
    }
  end

  # Runs `fun` with the pool of each kind of workers and a directory.
  defp each_kind(%{pools: pools, tmp_dir: dir}, fun) do
    for {kind, pool} <- pools do
      dir = Path.join(dir, to_string(kind))
      File.mkdir_p!(dir)
      fun.(pool, dir)
    end
  end

  defp attempts(dir), do: length(lines(Path.join(dir, "attempts")))
  defp flaky(dir, failures), do: %{path: Path.join(dir, "attempts"), failures: failures}

  # The waits of a test do not matter.
  defp soon(reasons, more \\ []), do: [on: reasons, backoff: {1, 5}] ++ more

  test "a call is made again until it succeeds, on workers of every kind", context do
    each_kind(context, fn pool, dir ->
      args = flaky(dir, 2)

      assert {:ok, %{"attempt" => 3}} =
               Snakepit.execute("flaky", args, pool: pool, retry: soon([:python_error]))
    end)
  end

  test "a call whose worker dies is made again on the next one", context do
    each_kind(context, fn pool, dir ->
      args = Map.put(flaky(dir, 2), :dies, true)

      assert {:ok, %{"attempt" => 3}} =
               Snakepit.execute("flaky", args, pool: pool, retry: soon([:worker_crashed]))
    end)
  end

  test "a call is made once without retry:, after another reason, or with retry: false",
       context do
    pool = context.pools[:Native]

    for retry <- [[], [retry: soon([:worker_crashed])], [retry: false]] do
      dir = Path.join(context.tmp_dir, inspect(retry))
      File.mkdir_p!(dir)

      assert {:error, %Error{reason: :python_error, details: details}} =
               Snakepit.execute("flaky", flaky(dir, 1), [pool: pool] ++ retry)

      refute is_map_key(details, :attempts)
      assert attempts(dir) == 1
    end
  end

  test "no more often than max: further times, and the error says how often", context do
    each_kind(context, fn pool, dir ->
      assert {:error, %Error{reason: :python_error, details: %{attempts: 3}, pool: ^pool}} =
               Snakepit.execute("flaky", flaky(dir, 9),
                 pool: pool,
                 retry: soon([:python_error], max: 2)
               )

      assert attempts(dir) == 3
    end)
  end

  test "all attempts have the request id of the call", context do
    each_kind(context, fn pool, dir ->
      retry = soon([:python_error])
      {:ok, %{"ids" => ids}} = Snakepit.execute("flaky", flaky(dir, 2), pool: pool, retry: retry)
      assert [id, id, id] = ids

      {:ok, %{"ids" => ids}} =
        Snakepit.execute("flaky", flaky(dir, 4), pool: pool, retry: retry, request_id: "mine")

      assert ["mine", "mine"] = Enum.take(ids, -2)
    end)
  end

  test "a call that finds the queue full is made again when there is room", context do
    %{busy: pool, tmp_dir: dir} = context
    args = %{started: Path.join(dir, "started"), until: Path.join(dir, "until")}
    held = Task.async(fn -> Snakepit.execute("hold", args, pool: pool) end)
    eventually(fn -> File.exists?(args.started) end)

    assert {:error, %Error{reason: :pool_saturated}} =
             Snakepit.execute("add", %{a: 1}, pool: pool)

    for saturated <- [
          fn -> Snakepit.execute("add", %{a: 1}, pool: pool, retry: until_free(args)) end,
          fn -> Snakepit.run_stream("counted", %{count: 1}, & &1, options(pool, args)) end,
          fn ->
            "counted" |> Snakepit.stream(%{count: 1}, options(pool, args)) |> Enum.to_list()
          end
        ] do
      assert {:error, %Error{reason: :pool_saturated, details: %{attempts: 2}}} =
               try(do: saturated.(), rescue: (error in Error -> {:error, error}))
    end

    again = Task.async(fn -> retry_saturated(pool, args) end)
    assert {:ok, %{"result" => 1}} = await(again)
    assert {:ok, _} = await(held)
  end

  defp options(pool, args), do: [pool: pool, retry: until_free(args)]
  defp until_free(_args), do: soon([:pool_saturated], max: 1)

  # The place becomes free once the call has failed for the first time.
  defp retry_saturated(pool, args) do
    me = self()
    handler = {me, :saturated}

    free = fn _event, _measurements, %{pool: of}, _config ->
      if of == pool and self() == me, do: File.touch!(args.until)
    end

    :ok = :telemetry.attach(handler, [:snakepit, :call, :retry], free, nil)
    retry = [on: [:pool_saturated], max: 10_000, backoff: {1, 20}]
    result = Snakepit.execute("add", %{a: 1}, pool: pool, retry: retry)
    :telemetry.detach(handler)
    result
  end

  describe "the deadline" do
    test "is one for all attempts", context do
      pool = context.pools[:Native]
      # The first attempt fails at once, the second one would run for ever.
      args = Map.put(flaky(context.tmp_dir, 1), :then_sleeps, 600)

      with_time(fn timeout ->
        File.rm(args.path)

        {:error, error} =
          Snakepit.execute("flaky", args,
            pool: pool,
            timeout: timeout,
            retry: soon([:python_error])
          )

        if attempts(context.tmp_dir) < 2 do
          :too_short
        else
          assert error.reason == :timeout
          assert error.message =~ "#{timeout} ms passed during attempt 2"
          assert error.details.attempts == 2
        end
      end)
    end

    test "leaves no attempt whose wait would pass it", context do
      retry = [on: [:python_error], max: 5, backoff: {600_000, 600_000}]

      assert {:error, %Error{reason: :python_error}} =
               Snakepit.execute("flaky", flaky(context.tmp_dir, 1),
                 pool: context.pools[:Native],
                 timeout: patience(),
                 retry: retry
               )

      assert attempts(context.tmp_dir) == 1
    end
  end

  describe "a session" do
    test "is never repeated if it is strict", context do
      each_kind(context, fn pool, dir ->
        options = [pool: pool, session_id: "s", retry: soon([:python_error])]

        assert {:error, %Error{reason: :python_error}} =
                 Snakepit.execute("flaky", flaky(dir, 1), options)

        assert attempts(dir) == 1
        File.rm!(Path.join(dir, "attempts"))

        assert {:ok, %{"attempt" => 2}} =
                 Snakepit.execute("flaky", flaky(dir, 1), [affinity: :prefer] ++ options)
      end)
    end
  end

  describe "a stream" do
    setup context do
      %{pool: context.pools[:Native], retry: soon([:python_error])}
    end

    test "that has delivered nothing is started again", %{pool: pool, retry: retry} = context do
      args = Map.put(flaky(context.tmp_dir, 2), :delivered, 0)
      options = [pool: pool, retry: retry]

      assert {:ok, %{"is_final" => true, "attempt" => 3}} =
               Snakepit.run_stream("flaky_stream", args, &send(self(), &1), options)

      assert_received %{"index" => 0}
      File.rm!(args.path)

      assert [%{"index" => 0}, %{"attempt" => 3}] =
               "flaky_stream" |> Snakepit.stream(args, options) |> Enum.to_list()

      refute_received {:snakepit, _ref, _event}
    end

    test "that has delivered fails", %{pool: pool, retry: retry} = context do
      args = Map.put(flaky(context.tmp_dir, 2), :delivered, 1)
      options = [pool: pool, retry: retry]

      assert {:error, %Error{reason: :python_error}} =
               Snakepit.execute_stream("flaky_stream", args, &send(self(), &1), options)

      assert_received %{"index" => 0}
      assert attempts(context.tmp_dir) == 1

      assert_raise Error, fn ->
        "flaky_stream" |> Snakepit.stream(args, options) |> Enum.to_list()
      end

      assert attempts(context.tmp_dir) == 2
    end

    test "of messages takes no retry:", %{pool: pool, retry: retry} do
      assert {:error, %Error{reason: :invalid_options}} =
               Snakepit.start_stream("flaky_stream", %{}, pool: pool, retry: retry)
    end
  end

  test "a pool's option is that of its commands, and a call may have another", context do
    dir = context.tmp_dir
    pool = start_pool!(retry: %{"flaky" => soon([:python_error], max: 1)})
    args = flaky(dir, 1)
    assert {:ok, %{"attempt" => 2}} = Snakepit.execute("flaky", args, pool: pool)
    File.rm!(args.path)
    assert {:error, _} = Snakepit.execute("flaky", args, pool: pool, retry: false)

    assert {:error, %Error{details: details}} =
             Snakepit.execute("fail", %{message: "no"}, pool: pool)

    refute is_map_key(details, :attempts)
  end

  test "telemetry counts the attempts", context do
    me = self()
    pool = context.pools[:Native]

    for event <- [[:call, :start], [:call, :retry], [:call, :stop], [:call, :exception]] do
      :ok = :telemetry.attach({me, event}, [:snakepit | event], &__MODULE__.tell/4, {me, pool})
    end

    on_exit(fn -> for event <- Telemetry.events(), do: :telemetry.detach({me, tl(event)}) end)
    options = [pool: pool, retry: soon([:python_error], max: 2), request_id: "r"]
    {:ok, _} = Snakepit.execute("flaky", flaky(context.tmp_dir, 2), options)

    assert [
             {:start, _},
             {:retry, %{attempt: 1, wait: _}},
             {:retry, %{attempt: 2, wait: wait}},
             {:stop, %{attempts: 3, duration: duration}}
           ] = told()

    assert wait > 0 and duration > wait
    {:error, _} = Snakepit.execute("fail", %{message: "no"}, options)
    assert [{:start, _}, {:retry, _}, {:retry, _}, {:exception, %{attempts: 3}}] = told()
    {:ok, _} = Snakepit.execute("add", %{a: 1}, options)
    assert [{:start, _}, {:stop, %{attempts: 1}}] = told()
  end

  def tell([:snakepit, :call, name], measurements, %{pool: pool} = metadata, {pid, pool}) do
    if name == :retry,
      do: %{reason: %Error{}, command: "" <> _, request_id: "" <> _} = metadata

    send(pid, {:told, name, measurements})
  end

  def tell(_event, _measurements, _metadata, _config), do: :ok

  defp told do
    receive do
      {:told, name, measurements} -> [{name, measurements} | told()]
    after
      0 -> []
    end
  end

  test "the wait leaves the caller's mailbox and its random numbers alone", context do
    :rand.seed(:exsss, 1)
    seed = :rand.export_seed()
    send(self(), :mine)
    retry = soon([:python_error])

    {:ok, _} =
      Snakepit.execute("flaky", flaky(context.tmp_dir, 2),
        pool: context.pools[:Native],
        retry: retry
      )

    assert :rand.export_seed() == seed
    assert {:messages, [:mine]} = Process.info(self(), :messages)
  end

  test "a server that refuses a call for a while answers it in the end, without retry:" do
    pool = start_server_pool!(Refusing)
    # More often than the native library sends a call at once.
    assert {:ok, %{"attempts" => 13}} = Snakepit.execute("refused 12", %{}, pool: pool)

    assert {:ok, %{"attempts" => 13}} =
             Snakepit.run_stream("refused_stream 12", %{}, & &1, pool: pool)
  end

  test "a call that an endpoint refuses may have run: it is not made again, and the endpoint stays" do
    script = Path.expand("test/support/python/refusing_server.py")
    name = "snakepit-#{System.pid()}-#{System.unique_integer([:positive])}.sock"
    socket = Path.join(System.tmp_dir!(), name)
    on_exit(fn -> File.rm(socket) end)
    env = [{"PYTHONPATH", Path.expand("python")}, {"SNAKEPIT_LISTEN", "unix:" <> socket}]
    %{address: address} = Servers.start_program!(".venv/bin/python", ["-u", script], env)
    pool = Endpoints.start_remote_pool!(endpoints: [address])
    :ok = await_ready(pool)

    for call <- [
          &Snakepit.execute("refused 1", %{}, &1),
          &Snakepit.run_stream("refused_stream 1", %{}, fn _chunk -> :ok end, &1)
        ] do
      options = [pool: pool, request_id: "#{System.unique_integer()}"]
      assert {:error, %Error{reason: :worker_crashed} = error} = call.(options)
      assert Error.may_have_run?(error)
      assert {:ok, %{"attempts" => 2}} = call.(options)
    end
  end

  test "a call that has certainly not started is made again without being asked for" do
    call = call(timeout: patience())
    error = %Error{reason: :grpc_unavailable, message: "refused", details: %{started: false}}
    assert {:again, wait, %{retry: %{attempt: 2}}} = Retry.next(call, error)
    assert wait in 3..5
    over = put_in(call.retry.timeout, 0)
    assert {:error, %Error{reason: :grpc_unavailable}} = Retry.next(over, error)
    other = %{error | details: %{grpc_status: 14}}
    assert {:error, %Error{reason: :grpc_unavailable}} = Retry.next(call, other)
  end

  test "a call to the pool of any node is made on another one if it has not started, ten times at most" do
    named = put_in(call(timeout: :infinity).pool[:node], :other@host)
    any = %{named | target: Snakepit.Relay.target({:any, :any}, [])}
    gone = %Error{reason: :node_unavailable, message: "gone", details: %{started: false}}

    for error <- [gone, %Error{reason: :pool_stopped, message: "stopped"}] do
      assert {:again, wait, %{retry: %{attempt: 2}}} = Retry.next(any, error)
      assert wait in 3..5
      assert {:error, _} = Retry.next(put_in(any.retry.attempt, 11), error)
      assert {:error, _} = Retry.next(named, error)
    end

    # It may have run.
    assert {:error, _} = Retry.next(any, %{gone | details: %{}})
  end

  test "a call to another node is made again from here only after :node_unavailable" do
    reasons = [:node_unavailable, :worker_crashed, :timeout]
    call = call(timeout: :infinity, retry: [on: reasons])
    there = put_in(call.pool[:node], :other@host)
    assert {:again, _, _} = Retry.next(there, %Error{reason: :node_unavailable, message: "lost"})
    assert {:again, _, _} = Retry.next(call, %Error{reason: :worker_crashed, message: "died"})
    assert {:error, _} = Retry.next(there, %Error{reason: :worker_crashed, message: "died"})
    late = %Error{reason: :timeout, message: "late", details: %{started: false}}
    assert {:error, _} = Retry.next(there, late)
  end

  test "the steps between attempts double up to the longest one" do
    call = call(timeout: :infinity, retry: [on: [:timeout], max: 100, backoff: {100, 1_000}])
    error = %Error{reason: :timeout, message: "late"}

    for {attempt, longest} <- [{1, 100}, {2, 200}, {3, 400}, {4, 800}, {5, 1_000}, {99, 1_000}],
        _ <- 1..50 do
      {:again, wait, _call} = Retry.next(put_in(call.retry.attempt, attempt), error)
      assert wait in div(longest, 2)..longest
    end
  end

  # A call without telemetry.
  defp call(options) do
    pool = %{retry: %{}, fallback: nil}
    options = Options.defaults(options)

    %{
      target: Snakepit.Relay.target(:any, []),
      pool: pool,
      name: :any,
      command: "any",
      args: %{},
      options: options,
      retry: Retry.new(pool, "any", options, System.monotonic_time()),
      span: nil
    }
  end

  describe "an invalid retry:" do
    test "is an error that names what is wrong" do
      for {retry, problem} <- [
            {true, "must be false or a list such as [on: [:worker_crashed], max: 3"},
            {[], "must be false or a list"},
            {[:worker_crashed], "must be false or a list"},
            {%{on: [:timeout]}, "must be false or a list"},
            {[max: 3], "has no :on, the list of reasons"},
            {[on: :timeout], "has an :on that is not a list of reasons, got: :timeout"},
            {[on: []], "has an :on that is not a list of reasons, got: []"},
            {[on: [:invalid_args]], "cannot repeat a call after :invalid_args; the reasons are"},
            {[on: [:timeout], max: 0], "has a :max that must be an integer above 0"},
            {[on: [:timeout], backoff: 50],
             "has a :backoff that must be a pair {first, longest} of milliseconds"},
            {[on: [:timeout], backoff: {50, 10}], "has a :backoff that must be a pair"},
            {[on: [:timeout], times: 3], "has the unknown key :times; the keys are :on, :max"}
          ] do
        assert {:error, %Error{reason: :invalid_options, message: message}} =
                 Snakepit.execute("ping", %{}, retry: retry)

        assert message =~ "the option :retry #{problem}"
      end
    end

    test "of a pool names the command" do
      for {retry, problem} <- [
            {[on: [:timeout]], "must be a map of commands to retries, such as"},
            {%{"fetch" => [max: 3]}, ~s(for the command "fetch" has no :on)},
            {%{fetch: false}, "has the name :fetch; expected a command, a string"}
          ] do
        assert {:error, %Error{reason: :invalid_options, message: message}} =
                 Snakepit.Pool.start_link(name: __MODULE__, retry: retry)

        assert message =~ "the option :retry #{problem}"
      end
    end
  end
end
