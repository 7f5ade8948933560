defmodule Snakepit.TelemetryMetricsTest do
  # What Snakepit.Telemetry offers on top of its events: metrics as data, and a logger.
  # The logger is attached for all pools.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools

  alias Snakepit.{Error, Telemetry}

  test "metrics are definitions for telemetry_metrics, of events that exist" do
    metrics = Telemetry.metrics()
    names = for {_type, name, _options} <- metrics, do: name
    assert names == Enum.uniq(names)

    for {type, name, options} <- metrics do
      assert type in [:counter, :sum, :last_value, :distribution]
      assert options[:event_name] in Telemetry.events(), name
      assert Enum.all?(options[:tags], &is_atom/1)
      assert is_atom(options[:measurement]) or is_function(options[:measurement], 1)
      assert is_binary(options[:description])
    end
  end

  test "they become the structs of telemetry_metrics" do
    metrics = Module.concat([:Telemetry, :Metrics])

    if Code.ensure_loaded?(metrics) do
      for {type, name, options} <- Telemetry.metrics() do
        assert %{event_name: event, tags: tags} = apply(metrics, type, [name, options])
        assert event == options[:event_name] and tags == options[:tags]
      end
    else
      IO.puts(:stderr, "not compared with telemetry_metrics, which is not on the code path")
    end
  end

  test "the metric of failed calls has the reason of the error as a label" do
    {:counter, _name, options} =
      List.keyfind(Telemetry.metrics(), "snakepit.call.exception.duration", 1)

    label = fn reason -> options[:tag_values].(%{pool: :p, reason: reason}).reason end
    assert label.(%Error{reason: :timeout, message: "late"}) == :timeout
    assert label.(%RuntimeError{}) == :raised
  end

  test "failed calls are logged once that is switched on, for one pool or all" do
    # The guides, whose code other tests run, switch it on.
    :ok = Telemetry.detach_logger()
    pool = start_pool!()
    fail = fn -> Snakepit.execute("nothing", %{}, pool: pool, request_id: "mine") end
    logged? = fn -> capture_log(fail) =~ "call nothing of #{inspect(pool)}" end
    refute logged?.()
    on_exit(&Telemetry.detach_logger/0)
    :ok = Telemetry.attach_logger(level: :warning, pool: pool)
    log = capture_log(fail)
    assert log =~ "[warning] call nothing of #{inspect(pool)} failed after "
    assert log =~ " ms [mine]: unknown_command: "
    refute capture_log(fn -> Snakepit.execute("echo", %{}, pool: pool) end) =~ "call echo"
    raised = fn -> raise "no more" end

    log =
      capture_log(fn ->
        assert_raise RuntimeError, fn ->
          Snakepit.execute_stream("ping_stream", %{}, fn _ -> raised.() end, pool: pool)
        end
      end)

    assert log =~ "stream ping_stream of " and log =~ "(RuntimeError) no more"
    :ok = Telemetry.attach_logger(pool: :another)
    refute logged?.()
    :ok = Telemetry.attach_logger()
    assert capture_log(fail) =~ "[error] call nothing"
    :ok = Telemetry.detach_logger()
    refute logged?.()
  end

  test "an unknown option of the logger is an error" do
    assert {:error, %Error{reason: :invalid_options, message: message}} =
             Telemetry.attach_logger(level: :loud)

    assert message =~ "the option :level must be :debug, :info, :warning or :error, got: :loud"
  end
end
