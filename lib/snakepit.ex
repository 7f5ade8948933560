defmodule Snakepit do
  @external_resource "README.md"
  @moduledoc "README.md" |> File.read!() |> String.split("<!-- body -->") |> List.last()

  alias Snakepit.{Bytes, Call, ChunkStream, Codec, Error, Telemetry}
  alias Snakepit.Config.Options
  alias Snakepit.Pool.{CommandPolicy, Diagnostics, Manager, Registry}

  @options Map.put(Options.call(), :pool, :pool)
  @stream_options Map.put(Options.stream(), :pool, :pool)

  @doc "Matches the messages of a call that `start_stream/3` started."
  defguard is_event(message, call)
           when is_tuple(message) and tuple_size(message) == 3 and
                  elem(message, 0) == :snakepit and
                  elem(message, 1) == :erlang.map_get(:ref, call)

  @doc """
  Executes a command on a worker and waits for its result, a map with string keys. What a command
  returns that is no dict arrives as `%{"result" => value}`.

      {:ok, %{"result" => 5}} = Snakepit.execute("compute", %{operation: "add", a: 2, b: 3})

  Options:

    * `:pool` - the pool's name, default `Snakepit.Pool`
    * `:timeout` - ms or `:infinity`; the wait for a worker counts
    * `:queue_timeout` - ms or `:infinity` for the wait for a worker alone
    * `:session_id` - the session that the call belongs to, as `execute_in_session/4` tells
    * `:affinity` - `:strict` (default) or `:prefer`, of a session
    * `:request_id` - names the call in errors, telemetry, Python's `context.request_id` and its log
      lines: 1 to 256 printable ASCII characters; one is made otherwise
    * `:traceparent` - a W3C trace context, and `:metadata` - a map or list of names and values: what
      Python finds in `context.metadata`

  The pool's options are the defaults. Errors are listed in `Snakepit.Error`.
  """
  @spec execute(String.t(), map | keyword, keyword) :: {:ok, map} | {:error, Error.t()}
  def execute(command, args \\ %{}, options \\ []) do
    with {:ok, pool, name, options} <- prepare(command, args, options, @options) do
      span = Telemetry.start_call(pool, name, command, false, options)

      case run(pool, name, command, args, options) do
        {:ok, result, meta} ->
          Telemetry.stop_call(span, meta)
          {:ok, result}

        {:error, error, meta} ->
          error = %{error | pool: name}
          Telemetry.fail_call(span, error, meta)
          {:error, error}
      end
    end
  end

  @doc """
  Executes a command in a session: `execute/3` with `session_id: session_id`.

      {:ok, _} = Snakepit.execute_in_session("user-7", "remember", %{name: "Ada"})
      {:ok, %{"name" => "Ada"}} = Snakepit.execute_in_session("user-7", "recall")

  The calls of a session go to one worker, where they share `context.session`. With the `:affinity`
  `:strict` a call waits for that worker, and nobody else does because of it. With `:prefer` it takes
  another one when that is busy; the session then moves there, and begins anew.

  A session is lost with its worker: the next call in it returns the error `:session_lost`, once,
  and does not run; the session then begins anew. Where the state is no more than a cache, call again.

  The id is any string of 1 to 1024 bytes without NUL. The pool's `:max_sessions` and `:session_ttl`
  bound what is kept.
  """
  @spec execute_in_session(String.t(), String.t(), map | keyword, keyword) ::
          {:ok, map} | {:error, Error.t()}
  def execute_in_session(session_id, command, args \\ %{}, options \\ []) do
    execute(command, args, [{:session_id, session_id} | options])
  end

  @doc """
  Executes a command that streams, and calls `callback` with each chunk, in this process.

      Snakepit.execute_stream("ping_stream", %{count: 3}, fn chunk -> IO.inspect(chunk) end)

  A chunk is a map with string keys: what the Python generator yielded, and `"is_final"`, which is
  true for what it returned. The callback's value is ignored, except `:halt`, which cancels the
  rest. An exception in the callback cancels the stream and goes on.

  Options as for `execute/3`, and:

    * `:demand` - how many chunks may be on their way to the callback; beside it no chunk is taken
      from the connection while 1 MiB is
    * `:first_chunk_timeout` - ms or `:infinity` (default) from the call to the first chunk, the wait
      for a worker included
    * `:idle_timeout` - ms or `:infinity` (default) for each further chunk, while one is wanted

  `:timeout` is for the whole stream.
  """
  @spec execute_stream(String.t(), map | keyword, (map -> any), keyword) ::
          :ok | {:error, Error.t()}
  def execute_stream(command, args \\ %{}, callback, options \\ []) do
    ChunkStream.each(&open(&1, command, args, options, true), callback)
  end

  @doc """
  Executes a command that streams in a session: `execute_stream/4` with `session_id: session_id`, as
  `execute_in_session/4` tells.
  """
  @spec execute_in_session_stream(String.t(), String.t(), map | keyword, (map -> any), keyword) ::
          :ok | {:error, Error.t()}
  def execute_in_session_stream(session_id, command, args \\ %{}, callback, options \\ []) do
    execute_stream(command, args, callback, [{:session_id, session_id} | options])
  end

  @doc """
  Ends a session and frees its state, here and in Python. Does nothing if there is none.

      :ok = Snakepit.end_session("user-7", pool: MyApp.Python)

  A call that runs in the session keeps what it has. The next one begins the session anew.
  """
  @spec end_session(String.t(), keyword) :: :ok | {:error, Error.t()}
  def end_session(session_id, options \\ []) do
    options = [{:session_id, session_id} | options]

    with :ok <- Options.check(options, %{session_id: :session_id, pool: :pool}),
         name = Keyword.get(options, :pool, Snakepit.Pool),
         {:ok, pool} <- Registry.fetch(name) do
      case Codec.end_session(pool.native, session_id) do
        {:error, error} ->
          {:error, %{error | pool: name}}

        ended ->
          if ended,
            do: Telemetry.session(:ended, %{pool: name, session_id: session_id, worker_id: nil})

          :ok
      end
    end
  end

  @doc """
  A lazy `Stream` of a command's chunks, to be composed with `Stream` and `Enum`.

      "ping_stream"
      |> Snakepit.stream(%{count: 1_000_000})
      |> Stream.map(& &1["sequence"])
      |> Enum.take(5)

  The command starts when the stream is enumerated, each time anew, and is cancelled as soon as that
  halts. Errors are raised. An enumeration that was suspended belongs to the process that began it:
  another one that goes on with it raises; any may halt it, which cancels the command. Options as for `execute_stream/4`.
  """
  @spec stream(String.t(), map | keyword, keyword) :: Enumerable.t()
  def stream(command, args \\ %{}, options \\ []) do
    ChunkStream.lazy(&open(&1, command, args, options, true))
  end

  @doc """
  Starts a command whose chunks reach this process as messages: for a GenServer or a LiveView.

      def init(_) do
        {:ok, call} = Snakepit.start_stream("ping_stream", %{count: 100}, demand: 10)
        {:ok, call}
      end

      def handle_info({:snakepit, ref, {:chunks, chunks}}, %{ref: ref} = call) do
        Snakepit.ask(call, length(chunks))
        {:noreply, call}
      end

      def handle_info(message, call) when Snakepit.is_event(message, call), do: {:stop, :normal, call}

  `Snakepit.Call` lists the events. Options as for `execute_stream/4`; here `:demand` is how many
  chunks are asked for to begin with. No more come until `ask/2` asks for them, and only their number
  counts.
  """
  @spec start_stream(String.t(), map | keyword, keyword) :: {:ok, Call.t()} | {:error, Error.t()}
  def start_stream(command, args \\ %{}, options \\ []),
    do: open(make_ref(), command, args, options, false)

  @doc "Asks for `chunks` more chunks of a stream that `start_stream/3` started."
  @spec ask(Call.t(), pos_integer) :: :ok
  defdelegate ask(call, chunks), to: ChunkStream

  @doc """
  Ends a stream that `start_stream/3` started, and takes what it has sent out of the mailbox: once
  this has returned, the calling process, which has to be the one that started it, gets no event of it
  any more. Does nothing to a stream that has ended.
  """
  @spec cancel(Call.t()) :: :ok
  defdelegate cancel(call), to: ChunkStream

  @doc """
  Marks a binary to arrive in Python as `bytes` also if it is UTF-8 text.

      Snakepit.execute("store", %{name: "photo.png", content: Snakepit.bytes(content)})
  """
  @spec bytes(binary) :: Bytes.t()
  def bytes(data) when is_binary(data), do: %Bytes{data: data}
  def bytes(data), do: raise(ArgumentError, "expected a binary, got: #{inspect(data)}")

  @doc """
  How a pool's workers are: each is asked now, and none waits behind calls.

      {:ok, %{healthy: true, ready: 4, size: 4, workers: [%{id: _, state: :ready} | _]}} =
        Snakepit.health(MyApp.Python)
  """
  @spec health(atom) :: {:ok, map} | {:error, Error.t()}
  defdelegate health(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  What a pool is: its `:adapter`, `:size` and `:max_concurrency`, and of its workers `:worker_type`,
  `:version`, `:commands` (names to signatures and what they do) and `:system`, which are nil while no
  worker can tell.
  """
  @spec info(atom) :: {:ok, map} | {:error, Error.t()}
  defdelegate info(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  The commands of a pool's workers, by name, each a map.

      {:ok, commands} = Snakepit.commands(MyApp.Python)
      %{
        name: "greet",
        signature: "greet(name: str, times: int = 1)",
        parameters: [
          %{name: "name", type: "str", required: true, default: nil},
          %{name: "times", type: "int", required: false, default: "1"}
        ],
        doc: "Greets somebody.",
        streams: false,
        async: false
      } = Enum.find(commands, &(&1.name == "greet"))

  Types and defaults are text, as Python has them, and nil where there is none; a parameter `**rest` takes any
  further argument. What a running worker tells is what there is: it is an error while none is ready, and where
  workers do not tell, as a program of one's own may not. One that tells names alone has nil for the rest.
  """
  @spec commands(atom) :: {:ok, [map]} | {:error, Error.t()}
  defdelegate commands(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  A pool's numbers: `:size`, `:ready`, `:queued` and `:in_flight` calls, `:sessions`, `:restarts`, and of
  the workers that there are now the sums of `:requests`, `:errors` and `:memory_bytes`.
  """
  @spec stats(atom) :: {:ok, map} | {:error, Error.t()}
  defdelegate stats(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  A pool's workers, each a map with the following. One that is replaced (`restart/2`) and its replacement are
  both there, with one id.

    * `:id`, and `:os_pid`, nil while there is no process
    * `:state` - `:starting`, `:ready`, `:draining`, or `:waiting` to be tried again, with the `:error` of
      the last start
    * `:in_flight` - its calls
    * `:python_stuck_ms` - for how long a command has held Python's lock in code that is not Python, so that
      nothing else runs in the worker; 0 where it is merely busy, and from the grpcio server, which then
      does not answer at all
    * `:requests`, `:errors`, `:sessions`, `:uptime_ms`, `:memory_bytes` and `:cpu_percent` (of one core,
      since its start) - what it says itself, nil where it does not answer
  """
  @spec list_workers(atom) :: {:ok, [map]} | {:error, Error.t()}
  defdelegate list_workers(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  Replaces a pool's workers one after another, by ones that load the code anew.

      :ok = Snakepit.restart(MyApp.Python)

  Each worker works on until its replacement, which starts beside it, is ready; then it gets no new calls,
  ends those that it has, and leaves. No call fails because of it, unless it goes on for longer than
  `:shutdown_timeout` on a worker that leaves. Sessions are lost with their workers: the next call in each
  returns `:session_lost`, once.

  If a replacement does not become ready, the restart ends there and returns an error that says why. The
  workers that were not replaced by then stay as they are.

  A restart that comes while another one goes on waits for the end of that one, and then replaces all
  workers once more. Ports of `:port_range` must be one more than there are workers.

  `timeout:` is how long to wait for the end, in ms, by default `:infinity`; each step of a restart has its
  own limit (`:startup_timeout`, `:shutdown_timeout`). Past it the restart goes on, and the caller gets a
  `:timeout`.
  """
  @spec restart(atom, keyword) :: :ok | {:error, Error.t()}
  def restart(pool \\ Snakepit.Pool, options \\ []) do
    with :ok <- Options.check(options, %{timeout: :timeout}),
         do:
           Manager.restart(pool, "Snakepit.restart/2", Keyword.get(options, :timeout, :infinity))
  end

  # `ref` is that of the stream's messages; they are for `Snakepit.ChunkStream` if `bounded`.
  defp open(ref, command, args, options, bounded) do
    with {:ok, pool, name, options} <- prepare(command, args, options, @stream_options) do
      options = Keyword.put_new(options, :demand, pool.options.demand)
      span = Telemetry.start_call(pool, name, command, true, options)

      # Whoever takes messages takes them on its own: the pool tells how that has ended.
      observer = if span && not bounded, do: {pool.manager, span}

      recipient = %{ref: ref, pool: name, bounded: bounded, observer: observer}

      case pool.transport.stream(pool, command, args, options, recipient) do
        {:ok, call} ->
          {:ok, if(bounded, do: %{call | span: span}, else: call)}

        {:error, error} ->
          error = %{error | pool: name}
          Telemetry.fail_call(span, error, nil)
          {:error, error}
      end
    end
  end

  defp run(pool, name, command, args, options) do
    with {:error, %Error{reason: :grpc_unavailable}, _meta} = failed <-
           pool.transport.run(pool, command, args, options) do
      # It may have waited while the pool fell back to other workers.
      case Registry.fetch(name) do
        {:ok, %{fallback: fallback} = now} when fallback != pool.fallback ->
          run(now, name, command, args, options)

        _ ->
          failed
      end
    end
  end

  # The first event of a call names it already.
  defp named(%{telemetry: false}, options), do: options

  defp named(_pool, options) do
    with false <- Keyword.has_key?(options, :request_id),
         {id, request_id} when is_integer(id) <- Codec.new_call() do
      [{:request_id, request_id} | options]
    else
      _ -> options
    end
  end

  defp prepare(command, args, options, schema) do
    with :ok <- Options.check(options, schema),
         {name, options} = Keyword.pop(options, :pool, Snakepit.Pool),
         {:ok, pool} <- Registry.fetch(name) do
      case CommandPolicy.check(pool.command_policy, command, args, options) do
        {:ok, options} ->
          %{timeout: timeout, queue_timeout: queue_timeout} = pool.options
          defaults = [timeout: timeout, queue_timeout: queue_timeout]
          {:ok, pool, name, named(pool, Keyword.merge(defaults, options))}

        {:error, error} ->
          {:error, %{error | pool: name}}
      end
    end
  end
end
