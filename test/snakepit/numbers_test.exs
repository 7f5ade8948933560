defmodule Snakepit.NumbersTest do
  # The numbers of calls in stats/1.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  defp numbers(pool) do
    {:ok, stats} = Snakepit.stats(pool)
    Map.take(stats, [:calls, :errors_by_reason, :asks, :commands, :last_minute])
  end

  defp command(counted) do
    none = %{calls: 0, errors: %{}, asks: 0, failed_asks: 0, batch_sizes: %{}}
    Map.merge(none, Map.new(counted))
  end

  # A call is counted a moment after its caller has the result.
  defp counted!(pool, calls),
    do:
      eventually(fn ->
        with(%{calls: ^calls} = found <- numbers(pool), do: found, else: (_ -> nil))
      end)

  for {kind, _options} <- [Native: [], Grpcio: [], Stdio: []] do
    test "#{kind}: calls and errors are counted by command and reason, with their times" do
      pool = start_pool!(ways()[unquote(kind)] ++ [max_queue: 0])

      assert numbers(pool) == %{
               calls: 0,
               errors_by_reason: %{},
               asks: 0,
               commands: %{},
               last_minute: %{
                 calls: 0,
                 queue_us: %{p50: nil, p90: nil, p99: nil},
                 execution_us: %{p50: nil, p90: nil, p99: nil},
                 ask_us: %{p50: nil, p90: nil, p99: nil}
               }
             }

      for n <- 1..3, do: {:ok, _} = Snakepit.execute("echo", %{n: n}, pool: pool)
      divide = %{operation: "divide", a: 1, b: 0}
      {:error, %Error{reason: :python_error}} = Snakepit.execute("compute", divide, pool: pool)
      {:error, %Error{reason: :unknown_command}} = Snakepit.execute("nothing", %{}, pool: pool)
      found = counted!(pool, 5)
      assert found.errors_by_reason == %{python_error: 1, unknown_command: 1}

      assert found.commands == %{
               "echo" => command(calls: 3),
               "compute" => command(calls: 1, errors: %{python_error: 1}),
               "nothing" => command(calls: 1, errors: %{unknown_command: 1})
             }

      %{calls: 5, queue_us: queue, execution_us: execution} = found.last_minute
      assert 0 <= queue.p50 and queue.p50 <= queue.p90 and queue.p90 <= queue.p99

      assert 0 < execution.p50 and execution.p50 <= execution.p90 and
               execution.p90 <= execution.p99

      ask =
        &Snakepit.execute("ask", %{tool: &1, args: %{}}, pool: pool, tools: [good: &2, bad: &2])

      {:ok, %{"value" => 1}} = ask.("good", fn _args -> 1 end)
      {:ok, %{"code" => "no"}} = ask.("bad", fn _args -> {:error, :no} end)
      found = counted!(pool, 7)
      assert found.asks == 2
      assert found.commands["ask"] == command(calls: 2, asks: 2, failed_asks: 1)
      assert found.last_minute.ask_us.p50 >= 0
    end
  end

  test "execution times are those of the commands" do
    pool = start_pool!()
    for _ <- 1..3, do: {:ok, _} = Snakepit.execute("sleep", %{seconds: 0.05}, pool: pool)
    assert counted!(pool, 3).last_minute.execution_us.p50 > 49_000
  end

  test "a call that gets no worker is an error without times" do
    pool = start_pool!(max_queue: 0, pipeline_budget: 0)
    stream = Snakepit.stream("ping_stream", %{count: 1_000_000}, pool: pool, demand: 1)
    {:suspended, _, continue} = Enumerable.reduce(stream, {:suspend, nil}, &{:suspend, {&1, &2}})
    {:suspended, _, continue} = continue.({:cont, nil})
    {:error, %Error{reason: :pool_saturated}} = Snakepit.execute("echo", %{}, pool: pool)
    assert %{errors_by_reason: %{pool_saturated: 1}, last_minute: %{calls: 0}} = counted!(pool, 1)
    continue.({:halt, nil})
    counted!(pool, 2)
  end

  for kind <- [:Native, :Grpcio] do
    test "#{kind}: a stream that its consumer halts is no error, one that fails is" do
      pool = start_pool!(ways()[unquote(kind)])
      args = %{count: 1_000_000}
      :ok = Snakepit.execute_stream("ping_stream", args, fn _ -> :halt end, pool: pool)
      [_] = "ping_stream" |> Snakepit.stream(%{count: 1}, pool: pool) |> Enum.to_list()
      found = counted!(pool, 2)
      assert found.errors_by_reason == %{}
      assert %{"ping_stream" => %{calls: 2, errors: %{}}} = found.commands

      # The worker itself counts none either, once the command has ended.
      eventually(fn ->
        match?({:ok, [%{in_flight: 0, requests: 2, errors: 0}]}, Snakepit.list_workers(pool))
      end)

      {:error, %Error{reason: :unknown_command}} =
        Snakepit.execute_stream("nothing", %{}, & &1, pool: pool)

      assert counted!(pool, 3).errors_by_reason == %{unknown_command: 1}
    end
  end
end
