defmodule Snakepit.RequestsTest do
  # What accompanies a call: its id, the trace that it is part of, and metadata.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.Error

  @traceparent "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

  test "a request id reaches Python, its metadata and errors" do
    pool = start_pool!()
    options = [pool: pool, request_id: "mine 1"]
    {:ok, request} = Snakepit.execute("request", %{}, options)
    assert %{"id" => "mine 1", "metadata" => %{"x-request-id" => "mine 1"}} = request

    assert {:error, %Error{request_id: "mine 1"}} =
             Snakepit.execute("fail", %{message: "no"}, options)

    assert {:error, %Error{request_id: "mine 1"}} =
             Snakepit.execute("echo", %{a: self()}, options)
  end

  test "a request id is generated if none is given, also for a refused call" do
    pool = start_pool!()

    ids =
      for _ <- 1..2,
          {:ok, %{"id" => id}} <- [Snakepit.execute("request", %{}, pool: pool)],
          do: id

    assert [<<_, _::binary>>, <<_, _::binary>>] = Enum.uniq(ids)
    options = [restart_backoff: {60_000, 60_000}, adapter_args: [class: "nowhere:Class"]]
    broken = start_pool_unready!(options)
    {:error, _} = await_ready(broken)

    assert {:error, %Error{reason: :worker_start_failed, request_id: <<_, _::binary>>}} =
             Snakepit.execute("ping", %{}, pool: broken)
  end

  test "traceparent and metadata reach the context of calls and streams, in sessions too" do
    pool = start_pool!()

    options = [
      pool: pool,
      traceparent: @traceparent,
      metadata: %{"x-tenant" => "a b", baggage: "k=v"}
    ]

    for more <- [[], [session_id: "s"]] do
      {:ok, %{"metadata" => metadata}} = Snakepit.execute("request", %{}, options ++ more)
      assert %{"traceparent" => @traceparent, "x-tenant" => "a b", "baggage" => "k=v"} = metadata

      [%{"metadata" => of_stream}] =
        Enum.to_list(Snakepit.stream("request_stream", %{}, options ++ more))

      assert Map.take(of_stream, ~w(traceparent x-tenant baggage)) ==
               Map.take(metadata, ~w(traceparent x-tenant baggage))
    end
  end

  test "Python's log lines name the request of their call" do
    pool = start_pool!(max_concurrency: 4)

    log =
      capture_log(fn ->
        for {command, id} <- [{"say", "r1"}, {"say_async", "r2"}] do
          {:ok, _} = Snakepit.execute(command, %{text: "hello"}, pool: pool, request_id: id)
        end

        options = [pool: pool, request_id: "r3"]
        [_, _] = "say_stream" |> Snakepit.stream(%{text: "hello"}, options) |> Enum.to_list()
        stop_supervised!({Snakepit.Pool, pool})
      end)

    for line <- ["[r1] hello", "[r2] hello", "[r3] hello", "[r3] hello at the end"] do
      assert log =~ "trouble: #{line}"
    end
  end

  test "invalid ids and metadata are refused by name" do
    for {key, value, wanted} <- [
          {:request_id, "ü", "ASCII"},
          {:request_id, "", "256"},
          {:request_id, String.duplicate("x", 257), "256"},
          {:traceparent, "00-abc-def-01", "W3C"},
          {:metadata, %{"Upper" => "x"}, "a-z"},
          {:metadata, %{"grpc-timeout" => "x"}, "gRPC"},
          {:metadata, %{"x-bin" => "x"}, "gRPC"},
          {:metadata, %{"te" => "x"}, "HTTP"},
          {:metadata, %{"x" => "a\nb"}, "printable"},
          {:metadata, %{"x" => 1}, "printable"},
          {:metadata, %{"x" => String.duplicate("x", 4096)}, "4096 bytes"},
          {:metadata, ["x"], "names"},
          {:metadata, ~D[2024-01-01], "map"},
          {:metadata, "x", "map"}
        ] do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Snakepit.execute("ping", %{}, [{key, value}])

      assert message =~ inspect(key) and message =~ wanted
    end
  end

  test "a caller is monitored once, however many calls it makes" do
    pool = start_pool!()

    monitors = fn ->
      length(Keyword.fetch!(Process.info(self(), [:monitored_by]), :monitored_by))
    end

    before = monitors.()
    for n <- 1..50, do: assert({:ok, _} = Snakepit.execute("echo", %{n: n}, pool: pool))
    assert monitors.() <= before + 1
  end
end
