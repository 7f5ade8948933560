defmodule Snakepit.Call do
  @moduledoc """
  A stream that `Snakepit.start_stream/3` started.

  The process that started it receives its events as messages `{:snakepit, ref, event}`, where `ref` is
  the call's `:ref`, in this order:

    * `{:chunks, chunks}` - chunks that were ready together, each a map with string keys and
      `"is_final"`; never more chunks than were requested
    * `{:done, info}` - the stream ended; `info` has `:request_id`, `:worker_id`, `:queue_us` and
      `:execution_us`
    * `{:error, %Snakepit.Error{}}` - the stream failed

  The stream is cancelled when that process dies, and when no process references the call any more; a stream of
  another node's pool only when that process dies.
  """
  @enforce_keys [:ref, :handle]
  defstruct [:ref, :handle, :span, :limits, :reopen, :final, :two_way]

  @type t :: %__MODULE__{
          ref: reference,
          handle: term,
          span: term,
          limits: term,
          reopen: term,
          final: term,
          two_way: term
        }
  @type event :: {:chunks, [map]} | {:done, map} | {:error, Snakepit.Error.t()}
end
