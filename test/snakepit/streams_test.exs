defmodule Snakepit.StreamsTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools
  require Snakepit

  alias Snakepit.Error

  setup_all do
    %{pool: start_pool!(max_concurrency: 4)}
  end

  describe "stream/3" do
    test "gives the chunks in order, each time it is enumerated", %{pool: pool} do
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

    test "starts nothing before it is enumerated" do
      stream = Snakepit.stream("counted", %{count: 1}, pool: :nowhere)
      assert_raise Error, ~r/there is no pool :nowhere/, fn -> Enum.to_list(stream) end
    end
  end

  describe "start_stream/3" do
    test "tells the end, and an error, without being asked for more", %{pool: pool} do
      {:ok, call} = Snakepit.start_stream("counted", %{count: 2}, pool: pool, demand: 2)
      assert indexes(call, 2) == [0, 1]
      %{ref: ref} = call
      assert_receive {:snakepit, ^ref, {:done, _info}}

      {:ok, call} = Snakepit.start_stream("fail_after", %{count: 2}, pool: pool, demand: 2)
      assert indexes(call, 2) == [0, 1]
      %{ref: ref} = call
      assert_receive {:snakepit, ^ref, {:error, %Error{reason: :python_error}}}
    end

    test "sends no more chunks than were asked for", %{pool: pool} do
      {:ok, call} = Snakepit.start_stream("counted", %{count: 10}, pool: pool, demand: 3)
      assert indexes(call, 3) == [0, 1, 2]
      # It would have sent another one before it answers this.
      assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
      assert no_messages?()
      Snakepit.ask(call, 2)
      assert indexes(call, 2) == [3, 4]
      Snakepit.ask(call, 100)
      assert indexes(call, 5) == Enum.to_list(5..9)
      %{ref: ref} = call

      assert_receive {:snakepit, ^ref,
                      {:done, %{request_id: <<_::binary>>, worker_id: worker_id}}}

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
      assert_receive {:snakepit, _ref, {:done, _info}}
    end

    test "tells an error as a Snakepit.Error", %{pool: pool} do
      {:ok, %{ref: ref}} =
        Snakepit.start_stream("fail_after", %{count: 0}, pool: pool, request_id: "mine")

      assert_receive {:snakepit, ^ref, {:error, %Error{reason: :python_error} = error}}
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
                    (message when Snakepit.is_event(message, call) -> send(me, {:started, call}))

          Process.sleep(:infinity)
        end)

      # Holding the call does not keep it alive: its owner does.
      assert_receive {:started, _call}
      Process.exit(owner, :kill)
      eventually(fn -> File.exists?(closed) end)
    end

    test "carries the session", %{pool: pool} do
      {:ok, call} = Snakepit.start_stream("request", %{}, pool: pool, session_id: "s1")
      ref = call.ref
      assert_receive {:snakepit, ^ref, {:chunks, [%{"session" => "s1", "is_final" => true}]}}
      assert_receive {:snakepit, ^ref, {:done, _info}}
      # Held until here: a call that nobody holds is cancelled.
      Snakepit.cancel(call)
    end
  end

  describe "backpressure" do
    @tag :tmp_dir
    test "a consumer that pauses holds the generator, and no other call", context do
      path = Path.join(context.tmp_dir, "progress")
      args = %{path: path, size: 16 * 1024}
      {:ok, call} = Snakepit.start_stream("progress", args, pool: context.pool, demand: 4)
      assert_received_chunks(call, 4)

      for _ <- 1..200, do: assert({:ok, _} = Snakepit.execute("ping", %{}, pool: context.pool))
      # 4 chunks were asked for; the windows on the way hold 256 KiB, which are 16 more.
      assert progress(path) in 4..64
      assert no_messages?()
      Snakepit.cancel(call)
    end

    @tag :tmp_dir
    test "large chunks are bounded by bytes, not by their number", context do
      path = Path.join(context.tmp_dir, "progress")
      args = %{path: path, size: 512 * 1024}
      me = self()

      first = fn _chunk ->
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

  describe "deadlines" do
    test "idle_timeout ends a stream whose next chunk does not come", %{pool: pool} do
      me = self()
      options = [pool: pool, idle_timeout: 100]
      tell = &send(me, {:chunk, &1["index"]})

      assert {:error, %Error{reason: :timeout, message: message}} =
               Snakepit.execute_stream("halting", %{count: 2}, tell, options)

      assert message =~ "no chunk came within 100 ms (:idle_timeout)"
      assert_received {:chunk, 0}
      assert_received {:chunk, 1}
    end

    test "first_chunk_timeout ends a stream that does not begin", %{pool: pool} do
      options = [pool: pool, first_chunk_timeout: 100]

      assert {:error, %Error{reason: :timeout, message: message}} =
               Snakepit.execute_stream("halting", %{count: 0}, & &1, options)

      assert message =~ "no chunk came within 100 ms (:first_chunk_timeout)"
    end

    test "first_chunk_timeout counts the wait for a worker" do
      pool = start_pool!(queue_timeout: 10_000)
      {:ok, call} = Snakepit.start_stream("halting", %{count: 1}, pool: pool)
      assert_received_chunks(call, 1)

      assert_raise Error, ~r/:first_chunk_timeout/, fn ->
        "counted"
        |> Snakepit.stream(%{count: 1}, pool: pool, first_chunk_timeout: 50)
        |> Enum.to_list()
      end

      Snakepit.cancel(call)
    end

    test "a consumer that takes its time is not idle", %{pool: pool} do
      options = [pool: pool, idle_timeout: 1_000, demand: 1]

      slow = fn _chunk ->
        for _ <- 1..20, do: Snakepit.execute("ping", %{}, pool: pool)
      end

      assert :ok = Snakepit.execute_stream("counted", %{count: 20}, slow, options)
    end
  end

  defp indexes(call, count, seen \\ [])
  defp indexes(_call, 0, seen), do: seen

  defp indexes(%{ref: ref} = call, count, seen) do
    assert_receive {:snakepit, ^ref, {:chunks, chunks}}
    indexes(call, count - length(chunks), seen ++ Enum.map(chunks, & &1["index"]))
  end

  defp assert_received_chunks(call, count), do: assert(length(indexes(call, count)) == count)

  defp progress(path) do
    case File.read(path) do
      {:ok, text} when text != "" -> text |> String.trim() |> String.to_integer()
      _ -> 0
    end
  end

  defp no_messages?, do: Process.info(self(), :messages) == {:messages, []}
end
