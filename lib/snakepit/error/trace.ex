defmodule Snakepit.Error.Trace do
  @moduledoc false
  # Formats the frames of a Python exception for a terminal: those in the user's own code, and its
  # causes.

  @most_steps 6
  @library ~r{/site-packages/|/lib/python\d|^<frozen }

  @spec show(map) :: String.t()
  def show(%{frames: frames, notes: notes, cause: cause}) do
    Enum.join([notes(notes), steps(frames), cause(cause)])
  end

  def show(_details), do: ""

  defp notes(notes), do: Enum.map(notes, &"\n  #{String.replace(&1, "\n", "\n  ")}")

  defp steps(frames) do
    # If none of the frames is in the user's own code, shows the last one.
    own =
      case Enum.reject(frames, &(&1.file =~ @library)) do
        [] -> Enum.take(frames, -1)
        own -> own
      end

    left_out = max(length(own) - @most_steps, 0)
    more = if left_out > 0, do: "\n    ... #{left_out} more", else: ""
    [more | own |> Enum.take(-@most_steps) |> Enum.map(&step/1)]
  end

  defp step(%{source: ""} = frame) do
    "\n    #{Path.relative_to_cwd(frame.file)}:#{frame.line}: #{frame.function}"
  end

  defp step(frame), do: [step(%{frame | source: ""}), "\n        ", frame.source]

  defp cause(nil), do: ""
  defp cause(cause), do: ["\n  caused by ", named(cause), show(cause)]

  # As Python prints it: an exception without a text is only its type.
  defp named(%{message: ""} = exception), do: exception.type
  defp named(exception), do: "#{exception.type}: #{exception.message}"
end
