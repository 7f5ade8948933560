defmodule Snakepit.Transport do
  @moduledoc false
  # How calls reach a pool's workers, and what process a worker is: one implementation for each kind of
  # worker. `Snakepit.Pool` chooses it when it starts, by what its adapter says; from then on nobody asks
  # which one it is.

  alias Snakepit.{Call, Error}

  @typedoc "What a call has to know of its pool: `Snakepit.Pool.Registry.fetch/1`."
  @type pool :: map

  @typedoc "A pool's options, complete."
  @type options :: map

  @typedoc "Where a call ran, and for how long it waited and ran, in µs."
  @type meta :: %{
          request_id: String.t(),
          worker_id: String.t() | nil,
          queue_us: non_neg_integer,
          execution_us: non_neg_integer
        }

  @typedoc """
  Whom a stream's messages go to: the calling process, with `:ref`. `:pool` is for errors. With `:bounded`
  no more chunks are on their way than are asked for, nor more bytes than fit. `:observer`, a process and a
  term, gets `{:snakepit_stream_ended, term, end}` as well, `end` being a map of the last `:event`, the
  call's `:meta`, the number of `:chunks` and `:first_chunk_us`.
  """
  @type recipient :: %{
          ref: reference,
          pool: atom,
          bounded: boolean,
          observer: {pid, term} | nil
        }

  @doc """
  Executes a command. The options are checked, and have a `:timeout`. An error has no meta where the call has
  not come to the pool.
  """
  @callback run(pool, command :: String.t(), args :: map | keyword, options :: keyword) ::
              {:ok, map, meta} | {:error, Error.t(), meta | nil}

  @doc "Starts a command that streams. The options have a `:demand` as well."
  @callback stream(pool, command :: String.t(), args :: map | keyword, keyword, recipient) ::
              {:ok, Call.t()} | {:error, Error.t()}

  @doc "The event that tells of each request beside the events of calls, or nil."
  @callback request_event() :: [atom] | nil

  @doc """
  The child specification of a worker's process, which begins when it is told `:start`. The argument has
  `:id`, `:held`, `:pool` (the native side), `:manager`, `:runtime_dir` and `:options` (the pool's).
  """
  @callback worker(map) :: Supervisor.child_spec()

  @doc "How long a supervisor has to wait for a worker to stop, in ms."
  @callback shutdown(options) :: pos_integer

  @doc "Whether a worker can be replaced by one that starts beside it, or why not."
  @callback check_replacement(options) :: :ok | {:error, String.t()}
end
