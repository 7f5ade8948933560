defmodule Snakepit.Pool.Output do
  @moduledoc false
  # Logs the output of a worker in a separate process, at Logger's pace, so that nothing else
  # waits for lines. The native side reads them, and keeps as many as its bound allows until they
  # are taken.

  require Logger

  alias Snakepit.Native
  alias Snakepit.Pool.Pipe

  # Logger's levels by their syslog numbers.
  @levels {:error, :error, :error, :error, :warning, :info, :info, :debug}

  # How many lines are held for a worker that is not ready yet.
  @held 200

  # The reference of its messages, its native side, what the worker's process must open, and the
  # process that logs, with its monitor.
  defstruct [:ref, :native, :path, :logger, :monitor]

  @type t :: %__MODULE__{}

  @doc """
  Opens the output of a worker. The caller receives `{ref, {:announced, text}}` for the line that
  begins with the token and a space, and `{ref, {:ended, lines}}` with the last lines at the end.

  With `held` nothing is logged before `release/1`: if a worker fails repeatedly, its output is
  not logged again.
  """
  @spec open(atom, String.t(), String.t() | nil, boolean) :: {:ok, t} | {:error, String.t()}
  def open(pool, worker_id, token, held) do
    ref = make_ref()
    worker = %{pool: pool, worker_id: worker_id}
    held = if held, do: []
    {logger, monitor} = spawn_monitor(fn -> await_output(ref, worker, held) end)

    case Pipe.open(&Native.output_open(ref, logger, token, &1)) do
      {:ok, output, path} ->
        send(logger, {ref, output})
        opened = %__MODULE__{ref: ref, native: output, path: path}
        {:ok, %{opened | logger: logger, monitor: monitor}}

      {:error, message} ->
        send(logger, {ref, nil})
        {:error, "its output cannot be read: #{message}"}
    end
  end

  @doc "Logs the held lines, and all further lines."
  @spec release(t) :: :ok
  def release(output) do
    send(output.logger, {output.ref, :release})
    :ok
  end

  @doc "The worker has exited: reads its remaining output, and then stops."
  @spec finish(t) :: :ok
  def finish(output), do: Native.output_finish(output.native)

  defp await_output(ref, worker, held) do
    receive do
      {^ref, nil} -> :ok
      {^ref, output} -> log_all(output, ref, worker, held)
    end
  end

  defp log_all(output, ref, worker, held) do
    held = released(held, ref, worker)

    case Native.output_take(output) do
      {[], 0, true} ->
        :ok

      {[], 0, false} ->
        receive do
          ^ref -> log_all(output, ref, worker, held)
          {^ref, :release} -> log_all(output, ref, worker, log_lines(held || [], worker))
        end

      {lines, _dropped, _ended} when held != nil ->
        log_all(output, ref, worker, Enum.take(held ++ lines, -@held))

      {lines, dropped, _ended} ->
        log_lines(lines, worker)
        if dropped > 0, do: log_dropped(dropped, worker)
        log_all(output, ref, worker, nil)
    end
  end

  defp released(nil, _ref, _worker), do: nil

  defp released(held, ref, worker) do
    receive do
      {^ref, :release} -> log_lines(held, worker)
    after
      0 -> held
    end
  end

  defp log_lines(lines, worker) do
    Enum.each(lines, &log(&1, worker))
    nil
  end

  defp log({level, request_id, text}, worker) do
    metadata = [pool: worker.pool, worker_id: worker.worker_id]
    metadata = if request_id, do: [{:request_id, request_id} | metadata], else: metadata
    Logger.log(elem(@levels, level), ["[", worker.worker_id, "] ", text], metadata)
  end

  defp log_dropped(count, worker) do
    Logger.warning(
      "[#{worker.worker_id}] #{grouped(count)} lines dropped: they arrived faster than Logger can take them",
      pool: worker.pool,
      worker_id: worker.worker_id
    )
  end

  # Formats 12345 as "12,345".
  defp grouped(count) do
    count
    |> Integer.to_string()
    |> String.replace(~r/\B(?=(\d{3})+$)/, ",")
  end
end
