defmodule Snakepit.Progress do
  @moduledoc false
  # The progress of a call. While its process waits for the reply, it gets the messages
  # `{:snakepit_progress, ref, {fraction, message}}`, and passes them on to `on_progress:`.

  @type on_progress :: (map -> any) | pid

  @doc "Passes on a report, or the last one of those that have arrived meanwhile. An exception calls `cancel` first."
  @spec pass_on(on_progress, reference, {float, String.t()}, map, (() -> any)) :: :ok
  def pass_on(on_progress, ref, reported, about, cancel) do
    {fraction, message} = last(ref, reported)
    progress = Map.merge(about, %{fraction: fraction, message: message})

    if is_pid(on_progress),
      do: send(on_progress, {:snakepit_progress, progress}),
      else: call(on_progress, progress, ref, cancel)

    :ok
  end

  defp call(on_progress, progress, ref, cancel) do
    on_progress.(progress)
  catch
    kind, reason ->
      cancel.()
      flush(ref)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc "Removes the reports of a call that has ended from the mailbox."
  @spec flush(reference) :: :ok
  def flush(ref) do
    last(ref, nil)
    :ok
  end

  defp last(ref, reported) do
    receive do
      {:snakepit_progress, ^ref, later} -> last(ref, later)
    after
      0 -> reported
    end
  end
end
