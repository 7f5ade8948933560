for {kind, way} <- Snakepit.Test.Pools.ways() do
  defmodule Module.concat(Snakepit, "MapOver#{kind}Test") do
    # Many calls of one process at once: `Snakepit.map/3`.
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools

    alias Snakepit.Error

    @moduletag :tmp_dir
    @size 2
    @places 4

    setup_all do
      %{pool: start_pool!(unquote(Macro.escape(way)) ++ [size: @size, max_concurrency: 2])}
    end

    defp numbers(range), do: Stream.map(range, &%{a: &1})

    test "results come in the order of the elements, for any enumerable", %{pool: pool} do
      results = Snakepit.map("add", numbers(1..100), pool: pool)
      assert Enum.to_list(results) == for(n <- 1..100, do: {:ok, %{"result" => n}})
      # Each enumeration makes the calls anew.
      assert Enum.count(results) == 100
      assert Enum.to_list(Snakepit.map("add", [], pool: pool)) == []
      keywords = [[a: 1], [a: 2, b: 3]]

      assert [{:ok, %{"result" => 1}}, {:ok, %{"result" => 5}}] =
               "add" |> Snakepit.map(keywords, pool: pool) |> Enum.to_list()

      assert {:messages, []} = Process.info(self(), :messages)
    end

    test "without order each result comes as soon as it is there", %{pool: pool, tmp_dir: dir} do
      [first, second] = for name <- ~w(a b), do: files(dir, name)
      # The first element ends after the second one has been received.
      File.touch!(second.until)

      received =
        "hold"
        |> Snakepit.map([first, second], pool: pool, ordered: false)
        |> Stream.each(fn {:ok, _} -> File.touch!(first.until) end)

      assert [{:ok, %{"pid" => _}}, {:ok, %{"pid" => _}}] = Enum.to_list(received)
    end

    test "an element that fails is an error in its place, and ends nothing", %{pool: pool} do
      elements = [%{a: 1}, %{a: 2, c: 3}, %{a: self()}, 4, %{a: 5}]

      assert [{:ok, _}, {:error, wrong}, {:error, unsendable}, {:error, no_map}, {:ok, _}] =
               "add" |> Snakepit.map(elements, pool: pool) |> Enum.to_list()

      for error <- [wrong, unsendable, no_map],
          do: assert(%Error{reason: :invalid_args, pool: ^pool} = error)

      assert [{:error, %Error{reason: :python_error}}, {:error, %Error{}}] =
               "fail"
               |> Snakepit.map([%{message: "a"}, %{message: "b"}], pool: pool)
               |> Enum.to_list()
    end

    test "as many calls are in flight as the pool can run, and no more elements are taken", %{
      pool: pool,
      tmp_dir: dir
    } do
      me = self()

      elements =
        Stream.map(1..20, fn n ->
          send(me, {:taken, n})
          files(dir, "n#{n}", "all")
        end)

      task =
        Task.async(fn -> "hold" |> Snakepit.map(elements, pool: pool) |> Enum.count(&ok?/1) end)

      for n <- 1..@places, do: eventually(fn -> File.exists?(files(dir, "n#{n}").started) end)
      {:ok, %{in_flight: @places, queued: 0}} = Snakepit.stats(pool)
      for n <- 1..@places, do: assert_received({:taken, ^n})
      refute_received {:taken, _n}
      File.touch!(Path.join(dir, "all.until"))
      assert await(task) == 20
    end

    test "max_in_flight: may be less or more", %{pool: pool, tmp_dir: dir} do
      assert 10 ==
               "add"
               |> Snakepit.map(numbers(1..10), pool: pool, max_in_flight: 1)
               |> Enum.count(&ok?/1)

      elements = for n <- 1..(@places + 3), do: files(dir, "m#{n}", "all")

      task =
        Task.async(fn ->
          "hold" |> Snakepit.map(elements, pool: pool, max_in_flight: 100) |> Enum.count(&ok?/1)
        end)

      eventually(fn -> match?({:ok, %{queued: 3}}, Snakepit.stats(pool)) end)
      File.touch!(Path.join(dir, "all.until"))
      assert await(task) == @places + 3
    end

    test "in order, a bounded number of results waits for an earlier one", %{
      pool: pool,
      tmp_dir: dir
    } do
      me = self()
      first = files(dir, "first")

      elements =
        Stream.map(0..50, fn n ->
          send(me, {:taken, n})
          other = files(dir, "n#{n}")
          File.touch!(other.until)
          if n == 0, do: first, else: other
        end)

      task =
        Task.async(fn -> "hold" |> Snakepit.map(elements, pool: pool) |> Enum.count(&ok?/1) end)

      # The first call in flight and seven results.
      for n <- 0..(2 * @places - 1), do: assert_receive({:taken, ^n})
      eventually(fn -> match?({:ok, %{in_flight: 1}}, Snakepit.stats(pool)) end)
      refute_received {:taken, _n}
      File.touch!(first.until)
      assert await(task) == 51
    end

    test "calls that still run when the enumeration ends early are cancelled", %{
      pool: pool,
      tmp_dir: dir
    } do
      me = self()
      quick = files(dir, "quick")
      File.touch!(quick.until)
      held = for n <- 1..3, do: files(dir, "held#{n}", "never")
      source = Stream.concat([quick | held], Stream.cycle([hd(held)]))
      source = Stream.transform(source, fn -> 0 end, &{[&1], &2}, fn _ -> send(me, :closed) end)
      results = Snakepit.map("hold_or_cancel", source, pool: pool)

      end_early = [
        fn -> Enum.take(results, 1) end,
        fn ->
          assert_raise RuntimeError, fn ->
            Enum.each(results, fn _result -> raise "enough" end)
          end
        end,
        fn -> catch_throw(Enum.each(results, &throw/1)) end,
        fn -> [1] |> Stream.zip(results) |> Enum.to_list() end
      ]

      for ended <- end_early do
        ended.()
        assert_receive :closed
        refute_received :closed
        # Their commands have noticed it.
        eventually(fn -> match?({:ok, %{in_flight: 0, queued: 0}}, Snakepit.stats(pool)) end)
        assert {:messages, []} = Process.info(self(), :messages)
      end

      assert {:ok, %{restarts: 0}} = Snakepit.stats(pool)
    end

    test "an exception of the enumerable is raised, and its calls are cancelled", %{
      pool: pool,
      tmp_dir: dir
    } do
      me = self()
      held = files(dir, "held", "never")

      source =
        Stream.resource(
          fn -> [held, :raise] end,
          fn
            [:raise] -> raise "no more"
            [first | rest] -> {[first], rest}
          end,
          fn _rest -> send(me, :closed) end
        )

      assert_raise RuntimeError, "no more", fn ->
        "hold_or_cancel" |> Snakepit.map(source, pool: pool) |> Enum.to_list()
      end

      assert_received :closed
      refute_received :closed
      eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end)
      assert {:messages, []} = Process.info(self(), :messages)
    end

    test "the calls end with the process that enumerates", %{pool: pool, tmp_dir: dir} do
      held = for n <- 1..10, do: files(dir, "held#{n}", "never")

      {:ok, pid} =
        Task.start(fn -> "hold_or_cancel" |> Snakepit.map(held, pool: pool) |> Enum.to_list() end)

      eventually(fn -> match?({:ok, %{in_flight: @places}}, Snakepit.stats(pool)) end)
      Process.exit(pid, :kill)
      eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end)
    end

    test "each call has its own deadline", %{pool: pool, tmp_dir: dir} do
      held = for n <- 1..3, do: files(dir, "late#{n}", "never")

      assert [{:error, %Error{reason: :timeout}}, {:error, %Error{}}, {:error, %Error{}}] =
               "hold_or_cancel" |> Snakepit.map(held, pool: pool, timeout: 100) |> Enum.to_list()

      eventually(fn -> match?({:ok, %{in_flight: 0}}, Snakepit.stats(pool)) end)
      assert {:messages, []} = Process.info(self(), :messages)
    end

    test "retry: makes the calls again that fail", %{pool: pool, tmp_dir: dir} do
      elements = for n <- 1..6, do: %{path: Path.join(dir, "attempts#{n}"), failures: rem(n, 3)}

      options = [pool: pool, retry: [on: [:python_error], max: 2, backoff: {1, 20}]]

      assert [{:ok, %{"attempt" => 2}}, {:ok, %{"attempt" => 3}}, {:ok, %{"attempt" => 1}} | _] =
               "flaky" |> Snakepit.map(elements, options) |> Enum.to_list()

      assert [{:error, %Error{reason: :python_error, details: %{attempts: 3}}}] =
               "fail" |> Snakepit.map([%{message: "no"}], options) |> Enum.to_list()
    end

    test "other messages stay where they are", %{pool: pool} do
      for n <- 1..10, do: send(self(), {:other, n})
      assert 20 == "add" |> Snakepit.map(numbers(1..20), pool: pool) |> Enum.count(&ok?/1)
      assert {:messages, messages} = Process.info(self(), :messages)
      assert messages == for(n <- 1..10, do: {:other, n})
    end

    test "a suspended enumeration belongs to its process", %{pool: pool} do
      me = self()
      results = Snakepit.map("add", numbers(1..20), pool: pool)
      step = &Enumerable.reduce(results, &1, fn result, _ -> {:suspend, result} end)
      {:suspended, {:ok, %{"result" => 1}}, continue} = step.({:cont, nil})
      error = await(Task.async(fn -> catch_error(continue.({:cont, nil})) end))
      assert Exception.message(error) =~ "belongs to the process that began to enumerate it"
      {:suspended, {:ok, %{"result" => 2}}, continue} = continue.({:cont, nil})
      assert self() == me
      assert {:halted, _} = continue.({:halt, nil})
      assert {:messages, []} = Process.info(self(), :messages)
    end

    defp ok?(result), do: match?({:ok, _}, result)

    defp files(dir, name, until \\ nil),
      do: %{started: Path.join(dir, name), until: Path.join(dir, "#{until || name}.until")}
  end
end

defmodule Snakepit.MapTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  test "an invalid option, and a pool that does not exist, are raised at the enumeration" do
    for {options, problem} <- [
          {[max_in_flight: 0], "the option :max_in_flight must be an integer above 0"},
          {[ordered: nil], "the option :ordered must be true or false"},
          {[request_id: "one"], "unknown option :request_id"},
          {[retry: [max: 1]], "the option :retry has no :on"},
          {[pool: Snakepit.NoSuchPool], "there is no pool Snakepit.NoSuchPool"}
        ] do
      results = Snakepit.map("add", [%{a: 1}], options)
      error = assert_raise(Error, fn -> Enum.to_list(results) end)
      assert error.message =~ problem
    end
  end

  @tag :tmp_dir
  test "each call is a span", %{tmp_dir: dir} do
    me = self()
    pool = start_pool!(max_concurrency: 4)

    for event <- [:start, :stop, :exception],
        do:
          :telemetry.attach(
            {me, event},
            [:snakepit, :call, event],
            &__MODULE__.tell/4,
            {me, pool}
          )

    on_exit(fn -> for e <- [:start, :stop, :exception], do: :telemetry.detach({me, e}) end)
    elements = for n <- 1..9, do: %{a: n}
    assert 9 = "add" |> Snakepit.map(elements, pool: pool) |> Enum.count()
    assert [_] = "fail" |> Snakepit.map([%{message: "no"}], pool: pool) |> Enum.to_list()
    # All but the first one run until they are cancelled.
    path = &Path.join(dir, &1)
    held = for n <- 1..9, do: %{started: path.("started#{n}"), until: path.("until#{n}")}
    File.touch!(hd(held).until)
    assert [_] = "hold_or_cancel" |> Snakepit.map(held, pool: pool) |> Enum.take(1)
    told = told()
    started = for {:start, metadata} <- told, do: metadata.telemetry_span_context
    ended = for {how, metadata} <- told, how != :start, do: metadata.telemetry_span_context
    assert started != [] and Enum.sort(started) == Enum.sort(ended)
    assert [%{reason: %Error{}}] = for({:exception, metadata} <- told, do: metadata)
    assert Enum.any?(told, &match?({:stop, %{halted: true}}, &1))
    ids = for {:start, metadata} <- told, do: metadata.request_id
    assert ids == Enum.uniq(ids)
  end

  def tell([:snakepit, :call, event], _measurements, %{pool: pool} = metadata, {pid, pool}),
    do: send(pid, {:told, event, metadata})

  def tell(_event, _measurements, _metadata, _config), do: :ok

  defp told do
    receive do
      {:told, event, metadata} -> [{event, metadata} | told()]
    after
      0 -> []
    end
  end
end
