defmodule Snakepit.GRPC.ClientTest do
  use ExUnit.Case, async: true
  doctest Snakepit.GRPC.Client

  alias Snakepit.{Codec, Error, Native}
  alias Snakepit.Config.Options
  alias Snakepit.GRPC.Client

  @moduletag :tmp_dir

  describe "a user's own channel" do
    setup %{tmp_dir: dir} do
      python = Path.expand(".venv/bin/python")
      socket = Path.join(System.tmp_dir!(), "snakepit-#{System.unique_integer([:positive])}.sock")
      on_exit(fn -> File.rm(socket) end)

      port =
        Port.open({:spawn_executable, python}, [
          :binary,
          :stderr_to_stdout,
          cd: dir,
          line: 1000,
          args: ~w(-u -m snakepit_bridge --listen unix:#{socket}),
          env: [
            {~c"PYTHONPATH", to_charlist(Application.app_dir(:snakepit, "priv/python"))},
            {~c"SNAKEPIT_READY_TOKEN", ~c"ready"}
          ]
        ])

      ready = "ready unix:" <> socket
      assert_receive {^port, {:data, {:eol, ^ready}}}
      {:ok, channel} = Client.connect("unix:" <> socket)
      %{channel: channel}
    end

    test "makes calls, streams and queries", %{channel: channel} do
      assert {:ok, %{"status" => "ok"}} = Client.execute(channel, "ping")
      me = self()
      assert :ok = Client.execute_stream(channel, "ping_stream", %{count: 2}, &send(me, &1))
      assert_received %{"is_final" => false}
      assert_received %{"is_final" => true}

      assert {:ok, %{"healthy" => true, "total_requests" => 2, "running" => 0}} =
               Client.health(channel)

      assert {:ok, %{"supported_commands" => commands, "stats" => stats}} =
               Client.get_info(channel)

      assert "ping" in commands
      assert stats["memory_usage_bytes"] > 1_000_000
    end

    test "the library takes any number of milliseconds that its types can hold", context do
      %{channel: channel} = context

      for millis <- [10 ** 12, 4 * 10 ** 14, 2 ** 63, 2 ** 64 - 1] do
        ref = make_ref()
        :ok = Native.health(ref, channel, "", millis)
        assert_receive {^ref, {:ok, %{"healthy" => true}}}, 60_000

        for timeouts <- [[millis, millis], [millis, nil], [nil, millis]] do
          [timeout, queue_timeout] = timeouts
          ref = make_ref()
          times = %{timeout: timeout, queue_timeout: queue_timeout}
          {:ok, spec} = Codec.spec("ping", Options.defaults(timeout: :infinity))
          assert {:ok, _handle} = Native.call(channel, ref, %{}, Map.merge(spec, times))
          assert_receive {^ref, {:ok, %{"status" => "ok"}, _meta}}, 60_000
        end
      end
    end

    test "a deadline is a timeout", %{channel: channel} do
      assert {:error, %Error{reason: :timeout}} =
               Client.execute_stream(channel, "ping_stream", %{interval: 60}, fn _ -> nil end,
                 timeout: 100
               )
    end
  end

  test "a missing server is named" do
    assert {:error, %Error{reason: :grpc_unavailable, message: message}} =
             Client.connect("unix:/nowhere/at/all")

    assert message =~ "/nowhere/at/all"
  end

  test "an address of unknown form is refused, with the known forms" do
    assert {:error, %Error{reason: :invalid_args, message: message}} = Client.connect("http://x")
    assert message =~ "unix:/path" and message =~ "tcp:host:port"
  end

  describe "encode_args/1" do
    test "sends a binary unchanged and anything else as JSON" do
      assert Client.encode_args(%{a: <<255>>, b: nil, c: :atom, d: {1, 2}, e: [x: 1]}) ==
               %{
                 "a" => <<255>>,
                 "b" => "null",
                 "c" => "\"atom\"",
                 "d" => "[1,2]",
                 "e" => "{\"x\":1}"
               }
    end

    test "keeps integers of any size and floats exact" do
      for number <- [0, -1, 2 ** 64, -(2 ** 64), 10 ** 100, 0.1, -1.5e300, 5.0e-324] do
        encoded = Client.encode_args(%{n: number})
        assert Client.decode_result(encoded) == %{"n" => number}
      end
    end

    test "names the path of a value that cannot be sent" do
      for {value, path} <- [
            {%{x: [1, make_ref()]}, "args.v.x[1]"},
            {%{x: <<1::3>>}, "args.v.x"},
            {[<<255>>], "args.v[0]"},
            {%{x: %Snakepit.Call{ref: nil, handle: nil}}, "args.v.x"},
            {%{x: Snakepit.bytes("text")}, "args.v.x"},
            {[1 | 2], "args.v"}
          ] do
        error = assert_raise Error, fn -> Client.encode_args(%{v: value}) end
        assert error.reason == :invalid_args
        assert error.message =~ path
      end
    end

    test "nests as deep as its limit, whatever the types, and refuses deeper values" do
      nestings = [
        &[&1],
        &{&1},
        &[a: &1],
        &%{"a" => &1},
        &%{"a" => 1, 2 => 3, b: &1},
        &%{"$snakepit" => 1, "!" => &1}
      ]

      for nest <- nestings, scalar <- [1, "text", ~D[2026-01-01]] do
        deep = Enum.reduce(1..128, scalar, fn _, inner -> nest.(inner) end)
        assert {:ok, bytes} = Codec.encode_extended(deep)
        assert {:ok, _} = Codec.decode_extended(bytes)
        assert {:error, %Error{message: message}} = Codec.encode_extended(nest.(deep))
        assert message =~ "nested deeper than 128 levels"
      end
    end
  end

  describe "decode_result/1" do
    test "reads JSON if it parses, else a binary" do
      assert Client.decode_result(%{
               "a" => "[1, 2.5, null, true]",
               "b" => "no json",
               "c" => <<255, 254>>,
               "d" => "{\"x\": {\"y\": \"z\"}, \"x\": 1}",
               "e" => "",
               "f" => "\"text\""
             }) == %{
               "a" => [1, 2.5, nil, true],
               "b" => "no json",
               "c" => <<255, 254>>,
               "d" => %{"x" => 1},
               "e" => "",
               "f" => "text"
             }
    end

    test "refuses nesting past its limit" do
      deep = String.duplicate("[", 100_000) <> String.duplicate("]", 100_000)
      assert_raise Error, ~r/128/, fn -> Client.decode_result(%{"v" => deep}) end
    end
  end
end
