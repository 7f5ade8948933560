for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "MailboxOver#{kind}Test") do
    # A process that has many other messages waits for its calls as quickly as any: a receive
    # skips the messages that were there before. Looking at a message costs a reduction, on any
    # machine.
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    @messages 100_000
    @waits 50
    # Garbage collection costs reductions as well.
    @bound 10 * @messages

    setup_all do
      %{pool: start_pool!(unquote(Macro.escape(way)))}
    end

    setup do
      for n <- 1..@messages, do: send(self(), {:other, n})
      :ok
    end

    defp reductions(fun) do
      {:reductions, before} = Process.info(self(), :reductions)
      fun.()
      {:reductions, now} = Process.info(self(), :reductions)
      now - before
    end

    # The first call and the first stream are not measured. They load modules, and a process that does so between making
    # a reference and waiting for it looks at every message.
    test "a call passes over other messages once", %{pool: pool} do
      calls = fn ->
        for _ <- 1..@waits, do: {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
      end

      calls.()
      assert reductions(calls) < @bound
    end

    if way[:server] do
      # One chunk at a time, so that the test waits for each.
      @options [demand: 1]

      test "a stream with a callback passes over other messages once", %{pool: pool} do
        stream = fn ->
          args = %{count: @waits}

          :ok =
            Snakepit.execute_stream("counted", args, fn _ -> nil end, [pool: pool] ++ @options)
        end

        stream.()
        assert reductions(stream) < @bound
      end

      test "a lazy stream passes over other messages once, enumerated at once or step by step", %{
        pool: pool
      } do
        stream = Snakepit.stream("counted", %{count: @waits}, [pool: pool] ++ @options)
        @waits = Enum.count(stream)
        assert reductions(fn -> @waits = Enum.count(stream) end) < @bound
        zipped = Stream.zip(stream, Stream.cycle([1]))
        assert reductions(fn -> @waits = Enum.count(zipped) end) < @bound
      end
    end
  end
end
