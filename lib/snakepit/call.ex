defmodule Snakepit.Call do
  @moduledoc """
  A stream that was started with `Snakepit.start_stream/3`.

  Its events reach the process that started it as messages `{:snakepit, ref, event}`, `ref` being
  the call's `:ref`, in this order:

    * `{:chunks, chunks}` - chunks that were ready together, each a map with string keys and
      `"is_final"`; never more of them than were asked for
    * `{:done, info}` - the end; `info` has `:request_id`, `:worker_id`, `:queue_us` and
      `:execution_us`
    * `{:error, %Snakepit.Error{}}` - the end, if it failed

  The stream is cancelled when that process dies, and when nobody holds the call any more.
  """
  @enforce_keys [:ref, :handle]
  defstruct [:ref, :handle, :span, :limits]

  @type t :: %__MODULE__{ref: reference, handle: term, span: term, limits: term}
  @type event :: {:chunks, [map]} | {:done, map} | {:error, Snakepit.Error.t()}
end
