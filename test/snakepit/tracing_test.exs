defmodule Snakepit.TracingTest do
  # The caller's span is the parent of the spans in Python.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.GRPC.Client

  @python Path.expand(System.get_env("SNAKEPIT_TEST_PYTHON") || ".venv/bin/python")
  @path System.get_env("SNAKEPIT_TEST_OTEL", "")

  {_output, status} =
    System.cmd(@python, ["-c", "import opentelemetry.sdk"],
      env: [{"PYTHONPATH", @path}],
      stderr_to_stdout: true
    )

  if status != 0 do
    IO.puts(:stderr, """
    Tests of traces are skipped: #{@python} has no opentelemetry-sdk. `mix snakepit.setup --dev` installs it.
    """)

    @moduletag skip: "needs the Python package opentelemetry-sdk"
  end

  setup_all do
    args = [class: "traced_commands:Traced", paths: [Path.expand("../support/python", __DIR__)]]
    env = if @path == "", do: %{}, else: %{"PYTHONPATH" => @path}

    pools =
      for {kind, options} <- ways(), threads <- [1, 4], into: %{} do
        options = [adapter_args: args, max_concurrency: threads, env: env] ++ options
        {{kind, threads}, start_pool!(options)}
      end

    %{pools: pools}
  end

  defp random(bytes), do: Base.encode16(:crypto.strong_rand_bytes(bytes), case: :lower)

  # Makes a span the current one of this process; returns its ids.
  defp enter_span(state \\ []) do
    {trace, span} = {random(16), random(8)}
    Process.put(:otel_carrier, [{"traceparent", "00-#{trace}-#{span}-01"} | state])
    {trace, span}
  end

  defp in_span({trace, span}, pool, command, args),
    do: Snakepit.execute(command, args, pool: pool, traceparent: "00-#{trace}-#{span}-01")

  # A worker has ended a span a moment after the last chunk.
  defp spans(pool, wanted) do
    Process.delete(:otel_carrier)

    eventually(fn ->
      {:ok, %{"result" => spans}} = Snakepit.execute("spans", %{}, pool: pool)
      found = spans ++ Process.get(:found, [])
      Process.put(:found, found)
      if length(found) >= wanted, do: Process.delete(:found) && found
    end)
  end

  for {kind, _options} <- [Native: [], Grpcio: [], Stdio: []], threads <- [1, 4] do
    test "#{kind}, #{threads} at once: a command's spans hang under the caller's", %{pools: pools} do
      pool = pools[{unquote(kind), unquote(threads)}]

      for command <- ~w(work work_in_thread work_async) do
        {trace, span} = enter_span()
        {:ok, _} = Snakepit.execute(command, %{name: command}, pool: pool)
        assert [%{"name" => ^command, "trace" => ^trace, "parent" => ^span}] = spans(pool, 1)
      end

      {:ok, _} = Snakepit.execute("work", %{name: "alone"}, pool: pool)
      assert [%{"name" => "alone", "parent" => nil}] = spans(pool, 1)
    end
  end

  for kind <- [:Native, :Grpcio], threads <- [1, 4] do
    test "#{kind}, #{threads} at once: so do the spans of a stream", %{pools: pools} do
      pool = pools[{unquote(kind), unquote(threads)}]

      for command <- ~w(work_in_parts work_in_parts_async) do
        {trace, span} = enter_span()
        stream = Snakepit.stream(command, %{name: command}, pool: pool)
        assert Enum.map(stream, & &1["result"]) == [0, 1]
        found = spans(pool, 2)

        assert Enum.sort(for %{"name" => name} <- found, do: name) == [
                 "#{command}0",
                 "#{command}1"
               ]

        assert Enum.all?(found, &match?(%{"trace" => ^trace, "parent" => ^span}, &1))
      end
    end
  end

  for {kind, _options} <- [Native: [], Grpcio: [], Stdio: []] do
    @tag :tmp_dir
    test "#{kind}: a batch of one call runs in its trace, one of several in none", context do
      pool = context.pools[{unquote(kind), 4}]

      for command <- ~w(work_in_batches work_in_batches_async) do
        until = Path.join(context.tmp_dir, command)
        args = &%{names: "#{command}#{&1}", until: until}
        parent = enter_span()
        first = Task.async(fn -> in_span(parent, pool, command, args.(0)) end)
        # While it runs, further calls wait until they are three.
        [alone] = spans(pool, 1)

        others =
          for n <- 1..3, do: Task.async(fn -> in_span(enter_span(), pool, command, args.(n)) end)

        [together] = spans(pool, 1)
        File.touch!(until)
        assert {:ok, %{"result" => 1}} = await(first)
        assert [{:ok, %{"result" => 3}}, _, _] = await_many(others)
        {trace, span} = parent
        assert %{"trace" => ^trace, "parent" => ^span} = alone
        assert %{"parent" => nil} = together
      end
    end

    test "#{kind}: the span of a batch can be linked to its callers", %{pools: pools} do
      pool = pools[{unquote(kind), 1}]
      {_trace, span} = enter_span()
      assert {:ok, _} = Snakepit.execute("work_for_callers", %{a: "b"}, pool: pool)
      assert [%{"name" => "linked", "links" => [^span]}] = spans(pool, 1)
    end
  end

  test "calls over a channel hang under the caller's span as well", %{pools: pools} do
    pool = pools[{:Native, 1}]
    channel = native(pool)
    {trace, span} = enter_span([{"tracestate", "vendor=1"}])

    assert {:ok, %{"span" => [^trace, ^span], "state" => "vendor=1"}} =
             Client.execute(channel, "current")

    assert Enum.count(Client.stream(channel, "work_in_parts", %{name: "part"})) == 2
    for found <- spans(pool, 2), do: assert(%{"trace" => ^trace, "parent" => ^span} = found)
  end

  test "the caller's own trace context counts, and the state goes with it", %{pools: pools} do
    pool = pools[{:Native, 1}]
    {trace, span} = enter_span([{"tracestate", "vendor=1"}])

    assert {:ok, %{"span" => [^trace, ^span], "state" => "vendor=1"}} =
             Snakepit.execute("current", %{}, pool: pool)

    {trace, span} = {random(16), random(8)}
    options = [pool: pool, traceparent: "00-#{trace}-#{span}-00"]

    assert {:ok, %{"span" => [^trace, ^span], "state" => ""}} =
             Snakepit.execute("current", %{}, options)
  end
end
