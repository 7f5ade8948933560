defmodule Snakepit.NotBegunTest do
  # Calls that are cancelled before they begin, because a command lets nothing else run in Python.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  alias Snakepit.Error

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    pipe = Path.join(dir, "pipe")
    {_, 0} = System.cmd("mkfifo", [pipe])
    {:ok, pipe: pipe, started: Path.join(dir, "started"), notes: Path.join(dir, "notes")}
  end

  test "behind Python's lock calls and streams are answered, and do not run", context do
    pool = start_pool!(max_concurrency: 8)
    held = hold(pool, "hold_the_gil", context)
    # It is not held at once.
    eventually(fn -> match?({:error, _}, execute(pool, "ping", %{}, 100)) end)
    note = %{path: context.notes}

    for call <- [
          &execute(pool, "note", note, &1),
          &execute(pool, "note_async", note, &1),
          &execute(pool, "no_such_command", %{}, &1),
          &Snakepit.execute_in_session("s", "note", note, pool: pool, timeout: &1),
          &Snakepit.execute_stream("note", note, fn _ -> nil end, pool: pool, timeout: &1)
        ],
        do: run_out(call)

    assert_only(held, pool, context)
  end

  test "behind a command on the event loop a task whose caller dies does not run", context do
    pool = start_pool!(max_concurrency: 8)
    path = Path.join(context.tmp_dir, "held")
    held = hold(pool, "hold_the_loop", Map.put(context, :held, path))
    note = Task.async(fn -> execute(pool, "note_async", %{path: context.notes}, :infinity) end)
    eventually(fn -> File.exists?(path) end)
    Task.shutdown(note, :brutal_kill)
    assert_only(held, pool, context)
  end

  for {kind, way} <- [
        Grpcio: [server: :grpcio],
        Stdio: [adapter: Snakepit.Adapters.GenericPythonV2]
      ] do
    test "behind Python's lock calls cost no worker with #{kind}", context do
      # A grace in which the machine answers a call that has not begun.
      with_time(fn grace ->
        options = [max_concurrency: 2, kill_grace: grace] ++ unquote(way)
        pool = start_pool!(options)
        pid = os_pid(pool)
        held = hold(pool, "hold_the_gil", context)
        eventually(fn -> match?({:error, _}, execute(pool, "ping", %{}, 100)) end)
        # In which it would be killed.
        Process.sleep(2 * grace)
        release(context)
        result = await(held)
        File.rm!(context.started)

        if match?({:ok, %{"pid" => ^pid}}, result) and os_pid(pool) == pid,
          do: :ok,
          else: :too_short
      end)
    end
  end

  defp hold(pool, command, context) do
    args = Map.take(context, [:started, :held, :pipe])
    held = Task.async(fn -> execute(pool, command, args, :infinity) end)
    eventually(fn -> File.exists?(context.started) end)
    held
  end

  defp release(context),
    do: {_, 0} = System.cmd("sh", ["-c", ~S(: > "$1"), "sh", context.pipe])

  defp execute(pool, command, args, timeout),
    do: Snakepit.execute(command, args, pool: pool, timeout: timeout)

  # A call that a worker has not received may still be queued.
  defp run_out(call) do
    with_time(fn timeout ->
      {:error, %Error{reason: :timeout, details: details}} = call.(timeout)
      if details.queued, do: :too_short, else: :ok
    end)
  end

  # The other calls have given their places back, and the worker continues.
  defp assert_only(held, pool, context) do
    eventually(fn -> match?({:ok, %{in_flight: 1}}, Snakepit.stats(pool)) end)
    release(context)
    assert {:ok, %{"pid" => pid}} = await(held)
    assert os_pid(pool) == pid
    assert lines(context.notes) == []
  end
end
