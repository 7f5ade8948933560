defmodule Snakepit.Error do
  @moduledoc """
  The error that every failed call returns. You can also raise it.

      args = %{operation: "divide", a: 1, b: 0}

      case Snakepit.execute("compute", args, pool: MyApp.Python) do
        {:ok, %{"result" => result}} -> result
        {:error, %Snakepit.Error{reason: :python_error, details: %{type: "ZeroDivisionError"}}} -> nil
        {:error, error} -> raise error
      end

  ## Fields

    * `:reason` - an atom from the list below
    * `:message` - what happened, and what to do about it
    * `:command`, `:pool`, `:worker_id`, `:request_id` - where it happened, `nil` if unknown. The pool of another node
      is `{name, node}`
    * `:details` - a map that depends on the reason

  ## Reasons

  | reason | meaning | details |
  |---|---|---|
  | `:adapter_error` | a callback of the pool's adapter raised, or returned an invalid value | |
  | `:cancelled` | the call was cancelled | |
  | `:command_error` | the command raised a `CommandError`, an error of its own | `:code`, `:data`, and those of `:python_error` |
  | `:grpc_unavailable` | the native library is not loaded, or no connection is possible | |
  | `:input_closed` | `Snakepit.push/3`: Python takes no more items of the input | |
  | `:internal_error` | a bug in Snakepit | |
  | `:invalid_args` | arguments that the command does not take, or that cannot be sent | `:errors` |
  | `:invalid_options` | an invalid option | |
  | `:invalid_result` | the command's result cannot be sent | |
  | `:message_too_large` | a message above `:max_message_size` | in bytes: `:size` and `:limit` for a request, for a result at most `:limit` |
  | `:node_unavailable` | the pool's node is not connected, was lost during the call, or runs another version of Snakepit | `:started`: false if the command has certainly not run |
  | `:not_ready` | the deadline passed while the pool's first workers were still starting | |
  | `:pool_saturated` | every worker is busy and the queue is full | `:max_queue` |
  | `:pool_stopped` | there is no such pool, or it has stopped; the call has not run | |
  | `:python_error` | the command raised an exception | `:type`, `:message`, `:traceback`, `:frames`, `:notes`, `:cause` |
  | `:queue_timeout` | no worker was free within `:queue_timeout`, which applies once the pool has had a ready worker | |
  | `:reentrant_call` | each worker that could run the call waits for the call that has made it, by a tool or by an input's enumerable | |
  | `:rpc_error` | the server answered with another gRPC status | `:grpc_status` |
  | `:session_lost` | the session's worker is gone, or the server says so; returned once, then the session begins anew | |
  | `:streaming_not_supported` | the worker does not support streams, or the tools and input streams of two-way calls | |
  | `:timeout` | the deadline passed | `:queued`, if `:timeout` itself passed: whether that was before a worker was free |
  | `:unauthenticated` | the server refused the secret | |
  | `:unknown_command` | the worker has no such command | |
  | `:worker_crashed` | the worker died while it was running the call, or ended it without a reply, or is silent; for an endpoint: the connection was lost | |
  | `:worker_start_failed` | no worker could be started; the message has the end of its output | |

  The 17 gRPC status codes map to these reasons: `CANCELLED` to `:cancelled`, `INVALID_ARGUMENT`
  to `:invalid_args`, `DEADLINE_EXCEEDED` to `:timeout`, `NOT_FOUND` to `:unknown_command`,
  `PERMISSION_DENIED` and `UNAUTHENTICATED` to `:unauthenticated`, `RESOURCE_EXHAUSTED` to
  `:pool_saturated`, or to `:message_too_large` if a size is the cause, `UNAVAILABLE` to
  `:grpc_unavailable`, `UNIMPLEMENTED` for a stream to `:streaming_not_supported`, and all others
  to `:rpc_error`. An `INTERNAL` with which a proxy, as that of Ray Serve, says that the server behind it has died is
  `:worker_crashed`.

  After a call was made more than once (`retry:`), the details have `:attempts`, how often. `may_have_run?/1` says
  whether the command may have run; [Reliability](reliability.md#which-failures-may-have-run) lists that by reason.

  ## Python's exceptions

  `:traceback` is what Python prints. `:frames` are its frames, the innermost last, each a map of
  `:file`, `:line`, `:function` and `:source`. `:notes` are the notes that `add_note` has added.
  `:cause` is the exception that it was raised from (`raise ... from`), a map of the same form, or
  `nil`.

  A command that raises `snakepit_bridge.CommandError("out_of_stock", "only 3 are left",
  data={"left": 3})` lets its callers match:

      {:error, %Snakepit.Error{reason: :command_error, details: details}} =
        Snakepit.execute("sell", %{count: 9}, pool: MyApp.Python)

      %{code: "out_of_stock", data: %{"left" => 3}} = details

  `Exception.message/1` shows the frames in the user's own code, without those in Python's
  libraries. For a `CommandError` it returns only `out_of_stock: only 3 are left`: such an error
  is meant for callers, and its details have the rest.

  ## Arguments

  For arguments that do not match their annotations, `:errors` lists each fault as Python reports
  it: `%{"path" => ["user", "tags", 2], "message" => "expected str, got int 1"}`. The path begins
  with the argument's name. The message has a line for each fault within an argument.
  """

  alias Snakepit.Error.Trace

  @type reason ::
          :adapter_error
          | :cancelled
          | :command_error
          | :grpc_unavailable
          | :input_closed
          | :internal_error
          | :invalid_args
          | :invalid_options
          | :invalid_result
          | :message_too_large
          | :node_unavailable
          | :not_ready
          | :pool_saturated
          | :pool_stopped
          | :python_error
          | :queue_timeout
          | :reentrant_call
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
          pool: Snakepit.pool() | nil,
          worker_id: String.t() | nil,
          request_id: String.t() | nil,
          details: map
        }

  defexception [:reason, :message, :command, :pool, :worker_id, :request_id, details: %{}]

  # The call has ended before a worker began with it.
  @not_run [
    :adapter_error,
    :grpc_unavailable,
    :invalid_args,
    :invalid_options,
    :not_ready,
    :pool_saturated,
    :pool_stopped,
    :queue_timeout,
    :reentrant_call,
    :session_lost,
    :streaming_not_supported,
    :unauthenticated,
    :unknown_command,
    :worker_start_failed
  ]

  @doc """
  Returns whether the command may have run, completely or in part. If not, repeating the call does nothing twice.

      {:error, error} = Snakepit.execute("no such command", %{}, pool: MyApp.Python)
      false = Snakepit.Error.may_have_run?(error)
  """
  @doc since: "0.1.0"
  @spec may_have_run?(t) :: boolean
  # The status of a server of the user's own.
  def may_have_run?(%__MODULE__{details: %{grpc_status: _}}), do: true
  def may_have_run?(%__MODULE__{reason: :timeout, details: %{queued: true}}), do: false
  def may_have_run?(%__MODULE__{reason: :node_unavailable, details: %{started: false}}), do: false
  def may_have_run?(%__MODULE__{reason: :message_too_large, details: %{size: _}}), do: false
  def may_have_run?(%__MODULE__{reason: reason}), do: reason not in @not_run

  @impl true
  def message(%__MODULE__{reason: :command_error} = error), do: error.message

  def message(%__MODULE__{} = error) do
    place = if error.command, do: " in command #{inspect(error.command)}"
    "#{error.reason}#{place}: #{error.message}#{Trace.show(error.details)}"
  end
end
