defmodule Snakepit.Error do
  @moduledoc """
  What every failed call returns, and what can be raised as it is.

      case Snakepit.execute("compute", %{operation: "divide", a: 1, b: 0}) do
        {:ok, %{"result" => result}} -> result
        {:error, %Snakepit.Error{reason: :python_error, details: %{type: "ZeroDivisionError"}}} -> nil
        {:error, error} -> raise error
      end

  ## Fields

    * `:reason` - an atom of the list below
    * `:message` - what happened and what to do about it
    * `:command`, `:pool`, `:worker_id`, `:request_id` - where it happened, `nil` where unknown
    * `:details` - a map that depends on the reason

  ## Reasons

  | reason | what it means | details |
  |---|---|---|
  | `:cancelled` | the call was cancelled | |
  | `:grpc_unavailable` | the native library is not loaded, or no connection can be had | |
  | `:internal_error` | a bug in Snakepit | |
  | `:invalid_args` | arguments that the command does not take, or that cannot be sent | |
  | `:invalid_options` | an option that Snakepit does not take | |
  | `:invalid_result` | the command's result cannot be carried | |
  | `:message_too_large` | a message above `:max_message_size` | `:limit`, `:size` in bytes |
  | `:pool_saturated` | every worker is busy and the queue is full | `:max_queue` |
  | `:pool_stopped` | there is no such pool, or it has stopped | |
  | `:python_error` | the command raised an exception | `:type`, `:message`, `:traceback` |
  | `:queue_timeout` | no worker was free within `:queue_timeout` | |
  | `:rpc_error` | the server answered with another gRPC status | `:grpc_status` |
  | `:session_lost` | the session's worker is gone; told once, then the session begins anew | |
  | `:streaming_not_supported` | a stream from a server that has none | |
  | `:timeout` | the deadline passed | `:queued`: before a worker was free |
  | `:unauthenticated` | the server refused the secret | |
  | `:unknown_command` | the worker has no such command | |
  | `:worker_crashed` | the worker died while it ran the call | |
  | `:worker_start_failed` | no worker could be started; the message has the end of its output | |

  The 17 gRPC status codes map to: `CANCELLED` to `:cancelled`, `INVALID_ARGUMENT` to
  `:invalid_args`, `DEADLINE_EXCEEDED` to `:timeout`, `NOT_FOUND` to `:unknown_command`,
  `PERMISSION_DENIED` and `UNAUTHENTICATED` to `:unauthenticated`, `RESOURCE_EXHAUSTED` to
  `:pool_saturated`, or to `:message_too_large` where a size is the reason, `UNAVAILABLE` to
  `:grpc_unavailable`, `UNIMPLEMENTED` of a stream to `:streaming_not_supported`, and the others
  to `:rpc_error`.
  """

  @type reason ::
          :cancelled
          | :grpc_unavailable
          | :internal_error
          | :invalid_args
          | :invalid_options
          | :invalid_result
          | :message_too_large
          | :pool_saturated
          | :pool_stopped
          | :python_error
          | :queue_timeout
          | :rpc_error
          | :session_lost
          | :streaming_not_supported
          | :timeout
          | :unauthenticated
          | :unknown_command
          | :worker_crashed
          | :worker_start_failed

  @type t :: %__MODULE__{
          reason: reason,
          message: String.t(),
          command: String.t() | nil,
          pool: atom,
          worker_id: String.t() | nil,
          request_id: String.t() | nil,
          details: map
        }

  defexception [:reason, :message, :command, :pool, :worker_id, :request_id, details: %{}]

  @impl true
  def message(%__MODULE__{command: nil} = error), do: "#{error.reason}: #{error.message}"

  def message(%__MODULE__{} = error) do
    "#{error.reason} in command #{inspect(error.command)}: #{error.message}"
  end
end
