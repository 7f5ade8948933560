for server <- [:native, :grpcio] do
  defmodule Module.concat(Snakepit, "StreamsWith#{Macro.camelize("#{server}")}Test") do
    use ExUnit.Case, async: true

    import Snakepit.Test.Pools, except: [start_pool!: 0, start_pool!: 1]
    require Snakepit

    alias Snakepit.Error

    @server server

    setup_all do
      %{pool: start_pool!(max_concurrency: 4)}
    end

    describe "stream/3" do
      test "returns the chunks in order, each time it is enumerated", %{pool: pool} do
        stream = Snakepit.stream("counted", %{count: 1000}, pool: pool)
        assert Enum.map(stream, & &1["index"]) == Enum.to_list(0..999)
        assert Enum.count(stream) == 1000
        assert no_messages?()
      end

      @tag :tmp_dir
      test "stops the generator as soon as the enumeration halts", %{pool: pool, tmp_dir: dir} do
        closed = Path.join(dir, "closed")
        chunks = "endless" |> Snakepit.stream(%{closed: closed}, pool: pool) |> Enum.take(5)
        assert Enum.map(chunks, & &1["index"]) == [0, 1, 2, 3, 4]
        eventually(fn -> File.exists?(closed) end)
        assert no_messages?()
      end

      test "composes with other streams", %{pool: pool} do
        [odd, even] =
          for start <- [1, 2] do
            "counted"
            |> Snakepit.stream(%{count: 50}, pool: pool)
            |> Stream.map(&(2 * &1["index"] + start))
          end

        assert odd |> Stream.zip(even) |> Enum.flat_map(&Tuple.to_list/1) == Enum.to_list(1..100)
        assert no_messages?()
      end

      @tag :tmp_dir
      test "stops the generator when another stream that it is zipped with ends", context do
        closed = Path.join(context.tmp_dir, "closed")
        endless = Snakepit.stream("endless", %{closed: closed}, pool: context.pool)
        assert [{_, :a}, {_, :b}] = Enum.zip(endless, [:a, :b])
        eventually(fn -> File.exists?(closed) end)
        assert no_messages?()
      end

      test "raises the error after the chunks that came before it", %{pool: pool} do
        me = self()

        error =
          assert_raise Error, fn ->
            "fail_after"
            |> Snakepit.stream(%{count: 3}, pool: pool)
            |> Enum.each(&send(me, {:chunk, &1["index"]}))
          end

        assert %{reason: :python_error, pool: ^pool, command: "fail_after"} = error
        assert error.details.type == "ValueError"
        assert error.details.traceback =~ "no more"
        for index <- 0..2, do: assert_received({:chunk, ^index})
        assert no_messages?()
      end

      test "that is suspended continues in its own process, and raises in another", %{pool: pool} do
        stream = Snakepit.stream("counted", %{count: 3}, pool: pool, demand: 1)
        step = fn chunk, _ -> {:suspend, chunk["index"]} end
        {:suspended, 0, next} = Enumerable.reduce(stream, {:cont, nil}, step)
        {:suspended, 1, next} = next.({:cont, nil})

        error = Task.await(Task.async(fn -> catch_error(next.({:cont, nil})) end), patience())
        assert Exception.message(error) =~ "belongs to the process that started it"

        assert {:suspended, 2, next} = next.({:cont, nil})
        assert {ended, nil} = next.({:cont, nil})
        assert ended in [:done, :halted]
        assert no_messages?()
      end

      @tag :tmp_dir
      test "that is suspended may be ended by another process", %{pool: pool, tmp_dir: dir} do
        args = %{closed: Path.join(dir, "closed")}
        stream = Snakepit.stream("endless", args, pool: pool, demand: 1, timeout: :infinity)
        step = fn chunk, _ -> {:suspend, chunk["index"]} end
        {:suspended, _, next} = Enumerable.reduce(stream, {:cont, nil}, step)
        assert {:halted, 5} = Task.await(Task.async(fn -> next.({:halt, 5}) end), patience())
        eventually(fn -> File.exists?(args.closed) end)
        assert {:error, error} = catch_end(next)
        assert %Error{reason: :cancelled, message: message} = error
        assert message =~ "ended by another process"
      end

      test "starts nothing before it is enumerated" do
        stream = Snakepit.stream("counted", %{count: 1}, pool: :nowhere)
        assert_raise Error, ~r/there is no pool :nowhere/, fn -> Enum.to_list(stream) end
      end
    end

    # An owner that continues nevertheless gets the chunks that were in transit.
    defp catch_end(next) do
      case next.({:cont, nil}) do
        {:suspended, _index, next} -> catch_end(next)
      end
    rescue
      error in Error -> {:error, error}
    end

    describe "start_stream/3" do
      test "reports the end, and an error, without a further request", %{pool: pool} do
        {:ok, call} = Snakepit.start_stream("counted", %{count: 2}, pool: pool, demand: 2)
        assert indexes(call, 2) == [0, 1]
        assert {:done, _info} = end_of(call)

        {:ok, call} = Snakepit.start_stream("fail_after", %{count: 2}, pool: pool, demand: 2)
        assert indexes(call, 2) == [0, 1]
        assert {:error, %Error{reason: :python_error}} = end_of(call)
      end

      test "sends no more chunks than were requested", %{pool: pool} do
        {:ok, call} = Snakepit.start_stream("counted", %{count: 10}, pool: pool, demand: 3)
        assert indexes(call, 3) == [0, 1, 2]
        # The generator would have sent another chunk before it answers this.
        assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
        assert no_messages?()
        Snakepit.ask(call, 2)
        assert indexes(call, 2) == [3, 4]
        Snakepit.ask(call, 100)
        assert indexes(call, 5) == Enum.to_list(5..9)
        assert {:done, %{request_id: <<_::binary>>, worker_id: worker_id}} = end_of(call)
        assert worker_id == "#{inspect(pool)}/1"
        assert Snakepit.cancel(call) == :ok
        assert no_messages?()
      end

      test "its messages match is_event/2, and others do not", %{pool: pool} do
        {:ok, call} = Snakepit.start_stream("counted", %{count: 1}, pool: pool)
        assert_receive message when Snakepit.is_event(message, call)
        assert {:snakepit, _ref, {:chunks, [%{"index" => 0, "is_final" => false}]}} = message
        refute Snakepit.is_event({:snakepit, make_ref(), message}, call)
        refute Snakepit.is_event(:other, call)
        assert {:done, _info} = end_of(call)
      end

      test "reports an error as a Snakepit.Error", %{pool: pool} do
        {:ok, call} =
          Snakepit.start_stream("fail_after", %{count: 0}, pool: pool, request_id: "mine")

        assert {:error, %Error{reason: :python_error} = error} = end_of(call)
        assert %{request_id: "mine", pool: ^pool, command: "fail_after"} = error
        assert Exception.message(error) =~ "ValueError: no more"
      end

      @tag :tmp_dir
      test "cancel/1 closes the generator and leaves nothing behind", %{pool: pool, tmp_dir: dir} do
        closed = Path.join(dir, "closed")
        {:ok, call} = Snakepit.start_stream("endless", %{closed: closed}, pool: pool, demand: 50)
        %{ref: ref} = call
        assert_receive {:snakepit, ^ref, {:chunks, [_ | _]}}
        Snakepit.ask(call, 50)
        assert Snakepit.cancel(call) == :ok
        assert no_messages?()
        eventually(fn -> File.exists?(closed) end)
        assert no_messages?()
      end

      @tag :tmp_dir
      test "its owner's death closes the generator", %{pool: pool, tmp_dir: dir} do
        closed = Path.join(dir, "closed")
        me = self()

        owner =
          spawn(fn ->
            {:ok, call} = Snakepit.start_stream("endless", %{closed: closed}, pool: pool)

            receive do:
                      (message when Snakepit.is_event(message, call) ->
                         send(me, {:started, call}))

            Process.sleep(:infinity)
          end)

        # Holding the call does not keep it alive: its owner does.
        assert_receive {:started, _call}
        Process.exit(owner, :kill)
        eventually(fn -> File.exists?(closed) end)
      end

      @tag :tmp_dir
      test "sends chunks that are ready together in one message", context do
        path = Path.join(context.tmp_dir, "progress")
        args = %{path: path, size: 1}
        {:ok, call} = Snakepit.start_stream("progress", args, pool: context.pool, demand: 1)
        assert indexes(call, 1) == [nil]
        eventually(fn -> progress(path) > 500 end)
        Snakepit.ask(call, 400)
        assert messages(call, 400) < 40
        Snakepit.cancel(call)
      end
    end

    # Each consumes a stream to its end and calls `each` with every chunk.
    @faces %{
      execute_stream: quote(do: &__MODULE__.call_back/4),
      stream: quote(do: &__MODULE__.enumerate/4),
      start_stream: quote(do: &__MODULE__.receive_all/4)
    }

    def call_back(command, args, each, options) do
      Snakepit.execute_stream(command, args, each, options)
    end

    def enumerate(command, args, each, options) do
      command |> Snakepit.stream(args, options) |> Enum.find(&(each.(&1) == :halt))
      :ok
    rescue
      error in Error -> {:error, error}
    end

    def receive_all(command, args, each, options) do
      {:ok, call} = Snakepit.start_stream(command, args, options)

      try do
        take_events(call, each)
      after
        Snakepit.cancel(call)
      end
    end

    defp take_events(%{ref: ref} = call, each) do
      receive do
        {:snakepit, ^ref, {:chunks, chunks}} ->
          Snakepit.ask(call, length(chunks))
          if Enum.any?(chunks, &(each.(&1) == :halt)), do: :ok, else: take_events(call, each)

        {:snakepit, ^ref, {:done, _info}} ->
          :ok

        {:snakepit, ^ref, {:error, error}} ->
          {:error, error}
      end
    end

    for {face, take} <- @faces do
      describe "with #{face}" do
        @describetag :tmp_dir

        test "the session is that of the call", %{pool: pool} do
          me = self()
          session = "session of #{unquote(face)}"
          options = [pool: pool, session_id: session]
          assert unquote(take).("request", %{}, &send(me, &1["session"]), options) == :ok
          assert_received ^session
          assert no_messages?()
        end

        test "halting, an error or a deadline leave nothing in the mailbox", context do
          %{pool: pool, tmp_dir: dir} = context
          args = %{closed: Path.join(dir, "closed")}
          halt = &if(&1["index"] == 300, do: :halt)
          assert unquote(take).("endless", args, halt, pool: pool) == :ok
          eventually(fn -> File.exists?(args.closed) end)
          assert no_messages?()

          assert {:error, %Error{reason: :python_error}} =
                   unquote(take).("fail_after", %{count: 1000}, & &1, pool: pool)

          assert no_messages?()

          assert {:error, %Error{reason: :timeout}} =
                   unquote(take).("endless", args, & &1, pool: pool, timeout: 100)

          assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
          assert no_messages?()
        end

        test "an error, throw or exit of the consumer propagates", context do
          %{pool: pool, tmp_dir: dir} = context

          for {kind, fail} <- [
                error: fn -> :erlang.error(:mine) end,
                throw: fn -> throw(:mine) end,
                exit: fn -> exit(:mine) end
              ] do
            args = %{closed: Path.join(dir, "closed_#{kind}")}
            each = fn chunk -> if chunk["index"] == 3, do: fail.() end

            caught =
              try do
                unquote(take).("endless", args, each, pool: pool)
              catch
                kind, reason -> {kind, reason}
              end

            assert caught == {kind, :mine}
            eventually(fn -> File.exists?(args.closed) end)
            assert no_messages?()
          end
        end

        test "the consumer's death closes the generator", %{pool: pool, tmp_dir: dir} do
          args = %{closed: Path.join(dir, "closed")}
          me = self()
          tell = &if(&1["index"] == 100, do: send(me, :going))
          consumer = spawn(fn -> unquote(take).("endless", args, tell, pool: pool) end)
          assert_receive :going
          Process.exit(consumer, :kill)
          eventually(fn -> File.exists?(args.closed) end)
        end
      end
    end

    describe "backpressure" do
      @tag :tmp_dir
      test "a consumer that pauses stops the generator, and no other call", context do
        path = Path.join(context.tmp_dir, "progress")
        args = %{path: path, size: 16 * 1024}
        {:ok, call} = Snakepit.start_stream("progress", args, pool: context.pool, demand: 4)
        assert_received_chunks(call, 4)

        eventually(fn -> progress(path) >= 4 end)
        for _ <- 1..200, do: assert({:ok, _} = Snakepit.execute("ping", %{}, pool: context.pool))
        # 4 chunks were requested; the windows on the way hold 256 KiB, which are 16 more.
        assert progress(path) in 4..64
        assert no_messages?()
        Snakepit.cancel(call)
      end

      @tag :tmp_dir
      test "large chunks are bounded by their bytes, not by their number", context do
        path = Path.join(context.tmp_dir, "progress")
        args = %{path: path, size: 512 * 1024}
        me = self()

        first = fn _chunk ->
          eventually(fn -> progress(path) >= 1 end)
          for _ <- 1..100, do: {:ok, _} = Snakepit.execute("ping", %{}, pool: context.pool)
          send(me, {:progress, progress(path)})
          :halt
        end

        assert :ok = Snakepit.execute_stream("progress", args, first, pool: context.pool)
        assert_received {:progress, progress}
        # 1 MiB in the BEAM is 2 chunks, and one is being sent.
        assert progress in 1..8
        assert no_messages?()
      end
    end

    test "a worker outlives thousands of streams that ended early" do
      pool = start_pool!(max_concurrency: 4)
      pid = os_pid(pool)

      for _ <- 1..2_000 do
        options = [pool: pool, demand: 1]
        {:ok, %{ref: ref} = call} = Snakepit.start_stream("counted", %{count: 1_000_000}, options)
        assert_receive {:snakepit, ^ref, {:chunks, _chunks}}
        Snakepit.cancel(call)
      end

      assert os_pid(pool) == pid
    end

    @tag :tmp_dir
    test "early ends anywhere in a stream leave nothing behind in the pool", %{tmp_dir: dir} do
      pool = start_pool!(max_concurrency: 4)
      pid = os_pid(pool)
      args = %{closed: Path.join(dir, "closed")}
      files = open_files(pid)

      for place <- 1..25 do
        halt = &if(&1["index"] == place, do: :halt)
        assert :ok = Snakepit.execute_stream("endless", args, halt, pool: pool)

        {:ok, call} = Snakepit.start_stream("endless", args, pool: pool, demand: place)
        assert_received_chunks(call, place)
        Snakepit.cancel(call)

        me = self()
        tell = &if(&1["index"] == place, do: send(me, {:at, place}))
        consumer = spawn(fn -> Snakepit.execute_stream("endless", args, tell, pool: pool) end)
        assert_receive {:at, ^place}
        Process.exit(consumer, :kill)

        assert {:error, %Error{reason: :timeout}} =
                 Snakepit.execute_stream("endless", args, & &1, pool: pool, timeout: place)
      end

      eventually(fn -> match?({:ok, %{in_flight: 0, queued: 0}}, Snakepit.stats(pool)) end)
      assert os_pid(pool) == pid
      eventually(fn -> open_files(pid) == files end)
      assert no_messages?()
    end

    describe "deadlines" do
      test "Python sees the rest of the timeout, without the wait for a worker" do
        pool = start_pool!()
        options = [pool: pool, queue_timeout: :infinity]
        {:ok, holding} = Snakepit.start_stream("halting", %{count: 1}, options)
        assert_received_chunks(holding, 1)
        {:ok, call} = Snakepit.start_stream("request", %{}, [timeout: 600_000] ++ options)
        waited = 100
        refute_receive {:snakepit, _ref, _event}, waited
        Snakepit.cancel(holding)
        %{ref: ref} = call
        assert_receive {:snakepit, ^ref, {:chunks, [%{"remaining" => remaining}]}}
        assert remaining > 0 and remaining <= 600 - waited / 1000
        assert {:done, _info} = end_of(call)

        {:ok, %{"remaining" => nil}} =
          Snakepit.execute("request", %{}, [timeout: :infinity] ++ options)
      end

      test "idle_timeout ends a stream whose next chunk does not come", %{pool: pool} do
        me = self()
        tell = &send(me, {:chunk, &1["index"]})

        with_time(fn time ->
          assert {:error, %Error{reason: :timeout, message: message}} =
                   Snakepit.execute_stream("halting", %{count: 2}, tell,
                     pool: pool,
                     idle_timeout: time
                   )

          assert message =~ "no chunk came within #{time} ms (:idle_timeout)"
          assert_received {:chunk, 0}

          receive do
            {:chunk, 1} -> :ok
          after
            0 -> :too_short
          end
        end)
      end

      test "first_chunk_timeout ends a stream that does not begin", %{pool: pool} do
        options = [pool: pool, first_chunk_timeout: 100]

        assert {:error, %Error{reason: :timeout, message: message}} =
                 Snakepit.execute_stream("halting", %{count: 0}, & &1, options)

        assert message =~ "no chunk came within 100 ms (:first_chunk_timeout)"
      end

      test "first_chunk_timeout counts the wait for a worker" do
        pool = start_pool!()
        {:ok, call} = Snakepit.start_stream("halting", %{count: 1}, pool: pool)
        assert_received_chunks(call, 1)

        assert_raise Error, ~r/:first_chunk_timeout/, fn ->
          "counted"
          |> Snakepit.stream(%{count: 1}, pool: pool, first_chunk_timeout: 50)
          |> Enum.to_list()
        end

        Snakepit.cancel(call)
      end

      test "a slow consumer is not idle", %{pool: pool} do
        with_time(fn time ->
          slow = fn _chunk ->
            until = System.monotonic_time(:millisecond) + 2 * time
            eventually(fn -> System.monotonic_time(:millisecond) > until end)
          end

          options = [pool: pool, idle_timeout: time, demand: 1]

          case Snakepit.execute_stream("counted", %{count: 3}, slow, options) do
            :ok -> :ok
            {:error, %Error{reason: :timeout}} -> :too_short
          end
        end)
      end
    end

    defp start_pool!(options \\ []),
      do: Snakepit.Test.Pools.start_pool!([server: @server] ++ options)

    defp indexes(call, count, seen \\ [])
    defp indexes(_call, 0, seen), do: seen

    defp indexes(%{ref: ref} = call, count, seen) do
      assert_receive {:snakepit, ^ref, {:chunks, chunks}}
      indexes(call, count - length(chunks), seen ++ Enum.map(chunks, & &1["index"]))
    end

    # The call is used after its last event, because a call that nobody references is cancelled.
    defp end_of(%{ref: ref} = call) do
      assert_receive {:snakepit, ^ref, {kind, _} = event} when kind in [:done, :error]
      Snakepit.cancel(call)
      event
    end

    defp messages(_call, left) when left <= 0, do: 0

    defp messages(%{ref: ref} = call, left) do
      assert_receive {:snakepit, ^ref, {:chunks, chunks}}
      1 + messages(call, left - length(chunks))
    end

    defp assert_received_chunks(call, count), do: assert(length(indexes(call, count)) == count)

    defp open_files(os_pid), do: length(File.ls!("/proc/#{os_pid}/fd"))

    defp progress(path) do
      case File.read(path) do
        {:ok, text} when text != "" -> text |> String.trim() |> String.to_integer()
        _ -> 0
      end
    end

    defp no_messages?, do: Process.info(self(), :messages) == {:messages, []}
  end
end
