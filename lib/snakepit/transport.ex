defmodule Snakepit.Transport do
  @moduledoc false
  # How calls reach a pool's workers, and how a worker's process is started: one implementation for each kind
  # of worker. `Snakepit.Pool` chooses it when it starts, by its adapter. No other module distinguishes them.
  # `Snakepit.Relay` is the one for pools on other nodes: it has calls, but no workers.

  alias Snakepit.{Call, Error}

  @typedoc "What a call has to know of its pool: `Snakepit.Pool.Registry.fetch/1`."
  @type pool :: map

  @typedoc """
  Where the calls of a `:pool` option go: a function that returns the name of the pool and the pool, and whether another
  node may have the pool as well if this one has not.
  """
  @type target :: %{
          fetch: (() -> {:ok, Snakepit.pool(), pool} | {:error, Error.t()}),
          elsewhere: boolean
        }

  @typedoc "A pool's options, complete."
  @type options :: map

  @typedoc "A call's options, complete: see `Snakepit.Config.Options.complete/2`."
  @type call_options :: map

  @typedoc "A call that has passed its checks, with its telemetry's span."
  @type call :: %{
          required(:target) => target,
          required(:pool) => pool,
          required(:name) => Snakepit.pool(),
          required(:command) => String.t(),
          required(:args) => term,
          required(:options) => call_options,
          required(:retry) => Snakepit.Retry.t(),
          required(:span) => term,
          optional(atom) => term
        }

  @typedoc """
  The worker that ran a call, and how long the call waited and ran, in µs. `:batch_size` is the number of
  calls in its batch, 0 if it was in none, and `:batch_wait_us` how long it waited for that to start.
  """
  @type meta :: %{
          request_id: String.t(),
          worker_id: String.t() | nil,
          queue_us: non_neg_integer,
          execution_us: non_neg_integer,
          batch_size: non_neg_integer,
          batch_wait_us: non_neg_integer
        }

  @typedoc """
  The recipient of a stream's messages: the calling process, under `:ref`. `:pool` is named in errors.
  `:bounded` means that the recipient asks for one more chunk after each one, so that their bytes are bounded
  as well as their number. `:observer` is nil, or a process and a term: at the end of the stream the process
  gets `{:snakepit_stream_ended, term, end}`, where `end` is a map of the last `:event`, the call's `:meta`, the
  number of `:chunks` and `:first_chunk_us`.
  """
  @type recipient :: %{
          ref: reference,
          pool: atom,
          bounded: boolean,
          observer: {pid, term} | nil
        }

  @doc """
  Executes a command. The meta of an error is nil if the call has not reached the pool.
  """
  @callback run(pool, command :: String.t(), args :: map | keyword, call_options) ::
              {:ok, map, meta} | {:error, Error.t(), meta | nil}

  @typedoc """
  A call that has been started and not ended. Its `:handle` is nil if the native library does not have it; `:until` is
  when to give it up, see `Snakepit.Overdue`.
  """
  @type pending :: %{
          :handle => integer | nil,
          :until => integer | :infinity,
          optional(atom) => term
        }

  @typedoc "The state of a call: it waits for a message, or has ended as that of `c:run/4`."
  @type progress ::
          {:wait, pending}
          | {:done, {:ok, map, meta} | {:error, Error.t(), meta | nil}}

  @doc """
  Starts a call as `c:run/4` does, without waiting for it. Until it has ended, the calling process gets messages
  `{tag, message}`, to be passed to `c:received/2`, and `{tag, monitor, :process, pid, reason}`, to be passed as
  `{:down, reason}`.
  """
  @callback start(pool, tag :: term, command :: String.t(), args :: map | keyword, call_options) ::
              progress

  @doc "Takes a message of a call that `c:start/5` started."
  @callback received(pending, message :: term) :: progress

  @doc "Ends such a call whose time is over, in the process that started it."
  @callback give_up(pending, tag :: term, call_options) :: progress

  @doc "Cancels such a call, in the process that started it. No message of it is left or comes afterwards."
  @callback cancel(pending, tag :: term) :: :ok

  @doc "Starts a streaming command."
  @callback stream(pool, command :: String.t(), args :: map | keyword, call_options, recipient) ::
              {:ok, Call.t()} | {:error, Error.t()}

  @doc "The telemetry event to emit at the end of each call in addition to those of calls, or nil."
  @callback request_event() :: [atom] | nil

  @doc """
  The child specification of a worker's process, which begins its work when it gets the message `:start`. The
  argument has `:id`, `:slot`, `:held`, `:pool` (the native resource), `:manager`, `:runtime_dir` and `:options` (those of
  the pool).
  """
  @callback worker(map) :: Supervisor.child_spec()

  @doc "How long a supervisor waits for a worker to stop, in ms."
  @callback shutdown(options) :: pos_integer

  @doc "Checks that a worker can be replaced by one that starts while it still runs."
  @callback check_replacement(options) :: :ok | {:error, String.t()}

  @optional_callbacks worker: 1, shutdown: 1, check_replacement: 1
end
