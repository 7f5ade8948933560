defmodule Snakepit do
  @external_resource "README.md"
  @moduledoc "README.md" |> File.read!() |> String.split("<!-- body -->") |> List.last()

  alias Snakepit.{
    Bytes,
    Call,
    ChunkStream,
    Codec,
    Error,
    Interpreter,
    MapStream,
    Retry,
    Telemetry,
    Tracing
  }

  alias Snakepit.Config.Options
  alias Snakepit.Pool.{CommandPolicy, Diagnostics, Manager, Numbers, Registry}

  @own %{pool: :pool, retry: :retry}
  @options Map.merge(Options.call(), @own)
  @stream_options Map.merge(Options.stream(), @own)
  @map_options @options
               |> Map.drop([:request_id, :on_progress])
               |> Map.merge(%{
                 ordered: {:one_of, [true, false]},
                 max_in_flight: {:positive, 1_000_000}
               })
  # A stream whose messages its owner receives is not repeated.
  @message_options Map.delete(@stream_options, :retry)

  @doc "Matches the messages of a call that `start_stream/3` started."
  @doc since: "0.1.0", group: :calls
  defguard is_event(message, call)
           when is_tuple(message) and tuple_size(message) == 3 and
                  elem(message, 0) == :snakepit and
                  elem(message, 1) == :erlang.map_get(:ref, call)

  @doc """
  Executes a command on a worker and waits for its result, a map with string keys. A result that is not
  a dict arrives as `%{"result" => value}`.

      {:ok, %{"result" => 5}} =
        Snakepit.execute("compute", %{operation: "add", a: 2, b: 3}, pool: MyApp.Python)

  Options:

    * `:pool` - the pool's name, default `Snakepit.Pool`
    * `:timeout` - ms or `:infinity`, including the wait for a worker
    * `:queue_timeout` - ms or `:infinity`, for the wait for a worker alone
    * `:priority` - `:high`, `:normal` (default) or `:low`, while it waits for a worker. Calls are served as if
      they had come a second later for each level below `:high`: a call is overtaken by calls of the next
      level that come up to a second after it, and never by later ones
    * `:session_id` - the session that the call belongs to, see `execute_in_session/4`
    * `:affinity` - `:strict` (default) or `:prefer`, for a call in a session
    * `:request_id` - names the call in errors, telemetry, Python's `context.request_id` and its log
      lines: 1 to 256 printable ASCII characters. Without it Snakepit makes one
    * `:traceparent` - a W3C trace context, by default that of the calling process's current span if the
      application has OpenTelemetry's API. The command runs in it: see
      [Traces](telemetry.md#traces-and-metadata). Python also finds it in `context.metadata`
    * `:metadata` - a map or list of names and values, for `context.metadata` as well
    * `:on_progress` - gets what the command reports by `context.progress(0.4, "epoch 2")`: a function,
      which is called in the calling process with `%{fraction: 0.4, message: "epoch 2", command: "train",
      request_id: "..."}`, or a pid, which gets `{:snakepit_progress, map}`. At most ten reports a second
      arrive, and the last one before the result. If the function raises, the call is cancelled
    * `:retry` - when to make a call again that has failed, `[on: [:worker_crashed], max: 3, backoff: {50, 1_000}]`,
      within the same `:timeout`. See [Retries](reliability.md#retries)

  The pool's options are the defaults. `Snakepit.Error` lists the errors.
  """
  @doc since: "0.1.0", group: :calls
  @spec execute(String.t(), map | keyword, keyword) :: {:ok, map} | {:error, Error.t()}
  def execute(command, args \\ %{}, options \\ []) do
    with {:ok, call} <- prepare(command, args, options, @options, false), do: run(call)
  end

  @doc """
  Executes a command in a session: `execute/3` with `session_id: session_id`.

      session = &Snakepit.execute_in_session("user-7", &1, &2, pool: MyApp.Python)
      {:ok, _} = session.("remember", %{name: "Ada"})
      {:ok, %{"result" => "Ada"}} = session.("recall", %{})

  The calls of a session go to one worker, where they share `context.session`. With `affinity: :strict`
  a call waits for that worker; calls of other sessions do not wait for it. With `affinity: :prefer` it
  takes another worker if that one is busy; the session moves there and begins anew.

  A session is lost with its worker: the next call in it returns the error `:session_lost`, once,
  and does not run. The session then begins anew. If its state is only a cache, call again.

  The id is any string of 1 to 1024 bytes without NUL. The pool's `:max_sessions` and `:session_ttl`
  limit how many sessions are kept, and for how long.
  """
  @doc since: "0.1.0", group: :sessions
  @spec execute_in_session(String.t(), String.t(), map | keyword, keyword) ::
          {:ok, map} | {:error, Error.t()}
  def execute_in_session(session_id, command, args \\ %{}, options \\ []) do
    execute(command, args, [{:session_id, session_id} | options])
  end

  @doc """
  Returns a lazy `Stream` of the results of one call for each element of `enumerable`, the arguments of the call.

      ["Hello Ada", "Hello Bob"] =
        ["Ada", "Bob"]
        |> Stream.map(&%{name: &1})
        |> then(&Snakepit.map("greet", &1, pool: MyApp.Python))
        |> Enum.map(fn {:ok, %{"result" => text}} -> text end)

  Each result is what `execute/3` returns, `{:ok, map}` or `{:error, error}`: a call that fails ends nothing.

  Calls run at the same time, as many as the pool can run at once (`:size` times `:max_concurrency`), and an element
  is taken from `enumerable` only when its call can be made. Enumerate the stream to make the calls; when the
  enumeration halts or raises, those that still run are cancelled.

  Options are those of `execute/3` except `:request_id` and `:on_progress`, and:

    * `:ordered` - whether results come in the order of the elements (default), or as soon as each is there.
      In order, at most as many results wait for an earlier one as calls may be in flight
    * `:max_in_flight` - how many calls to have in flight. More than the pool can run keeps its workers busy when
      calls are short: the others wait in its queue, where `:queue_timeout` applies

  `:timeout` is that of each call, from the moment its element is taken.

  No processes are started: the one that enumerates receives the results, and a suspended enumeration belongs to it,
  as with `stream/3`. Invalid options, and a pool that does not exist when the enumeration begins, are raised.
  """
  @doc since: "0.1.0", group: :calls
  @spec map(String.t(), Enumerable.t(), keyword) :: Enumerable.t()
  def map(command, enumerable, options \\ []) do
    MapStream.new(enumerable, fn ->
      with :ok <- Options.check(options, @map_options),
           {own, options} = Keyword.split(options, [:ordered, :max_in_flight]),
           {:ok, %{options: of_pool}} <-
             Registry.fetch(Keyword.get(options, :pool, Snakepit.Pool)) do
        capacity = of_pool.size * of_pool.max_concurrency

        {:ok,
         %{
           prepare: &prepare(command, &1, options, @options, false),
           max: Keyword.get(own, :max_in_flight, capacity),
           ordered: Keyword.get(own, :ordered, true)
         }}
      end
    end)
  end

  @doc """
  Executes a streaming command and calls `callback` with each chunk, in the calling process.

      :ok =
        Snakepit.execute_stream("ping_stream", %{count: 3}, fn chunk -> IO.inspect(chunk) end,
          pool: MyApp.Python
        )

  A chunk is a map with string keys: what the Python generator yielded, and `"is_final"`, which is
  true for the generator's return value. The callback's return value is ignored, except `:halt`, which
  cancels the stream. An exception in the callback cancels the stream and is raised.

  Options are those of `execute/3`, and:

    * `:demand` - how many chunks may be on their way to the callback. Independently of it, no chunk is
      read from the connection while 1 MiB of them is on its way
    * `:first_chunk_timeout` - ms or `:infinity` (default), from the call to the first chunk, including
      the wait for a worker
    * `:idle_timeout` - ms or `:infinity` (default), for each further chunk while the callback waits for
      one

  `:timeout` applies to the whole stream.
  """
  @doc since: "0.1.0", group: :streams
  @spec execute_stream(String.t(), map | keyword, (map -> any), keyword) ::
          :ok | {:error, Error.t()}
  def execute_stream(command, args \\ %{}, callback, options \\ []) do
    with {:ok, _final} <- run_stream(command, args, callback, options), do: :ok
  end

  @doc """
  Executes a streaming command as `execute_stream/4` does, and returns its final chunk: the value that the Python
  generator returned.

      {:ok, %{"total" => 3, "is_final" => true}} =
        Snakepit.run_stream("numbers", %{to: 3}, fn chunk -> IO.inspect(chunk) end,
          pool: MyApp.Python
        )

  The callback gets the final chunk, too. The result is `{:ok, nil}` if there is none: the generator returned nothing, or
  the callback has ended the stream with `:halt`. Options as for `execute_stream/4`.
  """
  @doc since: "0.1.0", group: :streams
  @spec run_stream(String.t(), map | keyword, (map -> any), keyword) ::
          {:ok, map | nil} | {:error, Error.t()}
  def run_stream(command, args \\ %{}, callback, options \\ []) do
    ChunkStream.each(&open(&1, command, args, options), callback)
  end

  @doc """
  Executes a streaming command in a session: `execute_stream/4` with `session_id: session_id`. See
  `execute_in_session/4`.
  """
  @doc since: "0.1.0", group: :sessions
  @spec execute_in_session_stream(String.t(), String.t(), map | keyword, (map -> any), keyword) ::
          :ok | {:error, Error.t()}
  def execute_in_session_stream(session_id, command, args \\ %{}, callback, options \\ []) do
    execute_stream(command, args, callback, [{:session_id, session_id} | options])
  end

  @doc """
  Runs Python code and returns the value of its last expression, for notebooks and for exploring.

      {:ok, 5} = Snakepit.eval("import math\\nmath.floor(x) + 2", %{x: 3.5}, pool: MyApp.Explore)

  A pool runs code only if its workers are an interpreter, which you choose when you start it:

      {Snakepit.Pool, name: MyApp.Explore, adapter_args: [class: "snakepit_bridge:Interpreter"]}

  Any other pool returns an error that says so. Whoever may call such a pool may do anything that its workers
  may do: never give it code of other people.

  `bindings` become names in Python. The value is nil if the last statement is not an expression. What the code
  prints is passed to the function `:on_output` while the code runs, as text in pieces of any length; by default
  it is printed here, by `IO.write/1`. With `session_id:` the names are kept for the next call in that session.
  Other options are those of `execute_stream/4`.

  An exception of the code is the error `:python_error`, whose frames are those of the code, with its line
  numbers. When the call is cancelled or its time is over, `KeyboardInterrupt` is raised in the code. Values
  are converted as everywhere: one that cannot be sent is the error `:invalid_result`.
  """
  @doc since: "0.1.0", group: :calls
  @spec eval(String.t(), map | keyword, keyword) :: {:ok, term} | {:error, Error.t()}
  def eval(code, bindings \\ %{}, options \\ []),
    do: Interpreter.eval(code, bindings, options, &execute_stream/4)

  @doc """
  Ends a session and frees its state, here and in Python. Does nothing if there is no such session.

      :ok = Snakepit.end_session("user-7", pool: MyApp.Python)

  A call that is running in the session keeps its state. The next call begins the session anew.
  """
  @doc since: "0.1.0", group: :sessions
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
  Returns a lazy `Stream` of a command's chunks, to be composed with `Stream` and `Enum`.

      [0, 1, 2, 3, 4] =
        "ping_stream"
        |> Snakepit.stream(%{count: 1_000_000}, pool: MyApp.Python)
        |> Stream.map(& &1["index"])
        |> Enum.take(5)

  The command starts anew each time the stream is enumerated, and is cancelled as soon as the enumeration
  halts. Errors are raised. A suspended enumeration belongs to the process that began it: continuing it
  in another process raises. Any process may halt it, which cancels the command. Options as for
  `execute_stream/4`.
  """
  @doc since: "0.1.0", group: :streams
  @spec stream(String.t(), map | keyword, keyword) :: Enumerable.t()
  def stream(command, args \\ %{}, options \\ []) do
    ChunkStream.lazy(&open(&1, command, args, options))
  end

  @doc """
  Starts a streaming command whose chunks are sent to the calling process as messages, for a GenServer or
  a LiveView.

      require Snakepit

      def init(_) do
        options = [pool: MyApp.Python, demand: 10]

        with {:error, error} <- Snakepit.start_stream("ping_stream", %{count: 100}, options),
          do: {:stop, error}
      end

      def handle_info({:snakepit, ref, {:chunks, chunks}}, %{ref: ref} = call) do
        Snakepit.ask(call, length(chunks))
        {:noreply, call}
      end

      def handle_info(message, call) when Snakepit.is_event(message, call), do: {:stop, :normal, call}

  `Snakepit.Call` lists the events. Options as for `execute_stream/4`, but `:demand` is the number of
  chunks to ask for at the start. No more are sent until `ask/2` asks for them. Only their number is
  limited, not their size.
  """
  @doc since: "0.1.0", group: :streams
  @spec start_stream(String.t(), map | keyword, keyword) :: {:ok, Call.t()} | {:error, Error.t()}
  def start_stream(command, args \\ %{}, options \\ []) do
    with {:ok, %{pool: pool, span: span} = call} <-
           prepare(command, args, options, @message_options, true) do
      # The caller receives its messages itself: the pool's manager emits the event of the stream's end.
      observer = if span, do: {pool.manager, span}
      recipient = %{ref: make_ref(), pool: call.name, bounded: false, observer: observer}

      with {:error, error} <- begin_stream(call, recipient) do
        error = %{error | pool: call.name}
        Numbers.failed(pool.native, command, error, nil)
        Telemetry.fail_call(span, error, nil)
        {:error, error}
      end
    end
  end

  @doc "Requests `chunks` more chunks of a stream that `start_stream/3` started."
  @doc since: "0.1.0", group: :streams
  @spec ask(Call.t(), pos_integer) :: :ok
  defdelegate ask(call, chunks), to: ChunkStream

  @doc """
  Ends a stream that `start_stream/3` started and removes its events from the mailbox. Call it in the
  process that started the stream: after it returns, that process gets no event of the stream. Does
  nothing to a stream that has ended.
  """
  @doc since: "0.1.0", group: :streams
  @spec cancel(Call.t()) :: :ok
  defdelegate cancel(call), to: ChunkStream

  @doc """
  Marks a binary to arrive in Python as `bytes` even if it is UTF-8 text.

      content = File.read!("photo.png")
      args = %{name: "photo.png", content: Snakepit.bytes(content)}
      {:ok, _} = Snakepit.execute("store", args, pool: MyApp.Python)
  """
  @doc since: "0.1.0", group: :calls
  @spec bytes(binary) :: Bytes.t()
  def bytes(data) when is_binary(data), do: %Bytes{data: data}
  def bytes(data), do: raise(ArgumentError, "expected a binary, got: #{inspect(data)}")

  @doc """
  Asks each of a pool's workers whether it is healthy. The request does not wait behind calls.

      {:ok, %{healthy: true, ready: 4, size: 4, workers: [%{id: _, state: :ready} | _]}} =
        Snakepit.health(MyApp.Python)
  """
  @doc since: "0.1.0", group: :pools
  @spec health(atom) :: {:ok, map} | {:error, Error.t()}
  defdelegate health(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  Describes a pool: its `:adapter`, `:size` and `:max_concurrency`, its limits `:max_requests`, `:max_age` and
  `:max_memory`, and the `:worker_type`, `:version`,
  `:commands` (a map of names to signatures and descriptions) and `:system` of its workers. The last four
  are nil while no worker answers.
  """
  @doc since: "0.1.0", group: :pools
  @spec info(atom) :: {:ok, map} | {:error, Error.t()}
  defdelegate info(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  Lists the commands of a pool's workers, sorted by name, each as a map.

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
        async: false,
        batch: nil
      } = Enum.find(commands, &(&1.name == "greet"))

  Types and defaults are text, as written in Python, and nil where there is none. A parameter `**rest` takes
  any further argument. `:batch` is `%{size: 32, wait_ms: 5.0, max_bytes: 16_777_216}` for a command whose calls
  gather: see [Serving models](serving_models.md#batching). A running worker is asked: the result is an error while no worker is ready, and if the
  workers do not describe their commands, as your own programs may not. If a worker sends only names, the other
  values are nil.
  """
  @doc since: "0.1.0", group: :pools
  @spec commands(atom) :: {:ok, [map]} | {:error, Error.t()}
  defdelegate commands(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  Returns a pool's statistics, a map with

    * `:size`, `:ready`, the number of `:queued` and `:in_flight` calls, `:sessions`,
      `:restarts`, and how many workers were `:recycled`
    * the sums of `:requests`, `:errors` and `:memory_bytes` of its current workers, as these report them
    * `:calls` - how many calls and streams have ended since the pool was started, and `:errors_by_reason`, a map of
      the reasons of `Snakepit.Error` to the number of calls that failed with each
    * `:commands` - a map of the commands to `:calls`, `:errors`, a map by reason, and `:batch_sizes`, a map of the sizes of
      batches to their number. Beyond 1,000 commands further ones are counted as `"(others)"`
    * `:last_minute` - the number of `:calls` that got a worker, with `:p50`, `:p90` and `:p99` of the wait for a worker,
      `:queue_us`, and of everything after it, `:execution_us`, in microseconds and to within 2 %; nil without calls

  A call that is tried again counts once. A stream that its consumer has halted is no error, and a call whose caller
  has died is not counted.
  """
  @doc since: "0.1.0", group: :pools
  @spec stats(atom) :: {:ok, map} | {:error, Error.t()}
  defdelegate stats(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  Lists a pool's workers, each as a map with the keys below. While a worker is being replaced, both it and its
  replacement are listed, with the same id and slot.

    * `:id`, and `:os_pid`, nil while there is no process, and for an endpoint
    * `:endpoint` - the address of an endpoint of a remote pool, nil for a process
    * `:slot` - its place in the pool, from 0 on, which its successors keep (`SNAKEPIT_WORKER_SLOT`)
    * `:state` - `:starting`, `:ready`, `:draining` (it takes no calls, or only those of its sessions), or `:waiting` for the next attempt to start, with the
      `:error` of the last one. An endpoint is `:connecting`, `:ready`, or `:ejected` (it takes no calls for a while), with the `:error`
      that is the reason
    * `:in_flight` - the number of its calls
    * `:python_stuck_ms` - for how long a command has held Python's lock in code that is not Python, so that
      nothing else runs in the worker. It is 0 if the worker is only busy, and always 0 for the grpcio server,
      which does not answer at all in that case
    * `:requests`, `:errors`, `:sessions`, `:uptime_ms`, `:memory_bytes` and `:cpu_percent` (of one core,
      since its start) - as the worker reports them, nil if it does not answer
    * `:progress` - of each running call that has reported one (`context.progress`), a map with `:command`,
      `:request_id`, `:fraction` from 0.0 to 1.0 and `:message`
  """
  @doc since: "0.1.0", group: :pools
  @spec list_workers(atom) :: {:ok, [map]} | {:error, Error.t()}
  defdelegate list_workers(pool \\ Snakepit.Pool), to: Diagnostics

  @doc """
  Replaces a pool's workers one after another with workers that load the code anew.

      :ok = Snakepit.restart(MyApp.Python)

  Each worker takes calls until its replacement, which starts beside it, is ready. Then it gets no new calls,
  finishes those that it has, and exits. No call fails because of a restart unless it takes longer than
  `:shutdown_timeout` on a worker that is being replaced. Sessions are lost with their workers: the next call
  in each returns `:session_lost`, once.

  If a replacement does not become ready, the restart ends there and returns an error with the reason. The
  workers that have not been replaced keep running.

  A restart that begins during another one waits for it to end and then replaces all workers once more.
  `:port_range` must have one port more than there are workers. The servers of a remote pool are restarted where they
  run.

  `timeout:` is how long to wait for the end, in ms, by default `:infinity`. Each step of a restart has a limit
  of its own (`:startup_timeout`, `:shutdown_timeout`). After the timeout the caller gets the error `:timeout`,
  and the restart continues.
  """
  @doc since: "0.1.0", group: :pools
  @spec restart(atom, keyword) :: :ok | {:error, Error.t()}
  def restart(pool \\ Snakepit.Pool, options \\ []) do
    with :ok <- Options.check(options, %{timeout: :timeout}),
         do:
           Manager.restart(pool, "Snakepit.restart/2", Keyword.get(options, :timeout, :infinity))
  end

  @doc """
  Changes how many workers a pool has, while it runs.

      :ok = Snakepit.resize(MyApp.Python, 8)
      :ok = Snakepit.Pool.await_ready(MyApp.Python)

  A larger pool starts its further workers at once; `Snakepit.Pool.await_ready/2` waits until they are ready. A
  smaller pool keeps its first workers. The others get no new calls, finish those that they have, without a limit
  but their own timeouts, and exit. A worker that has sessions gets their calls until they end, for at most
  `:session_ttl`; calls with `affinity: :prefer` move theirs to another worker. No call fails because of it.

  The new size is that of the running pool: if its supervisor restarts it, it has the `:size` of its options again.
  """
  @doc since: "0.1.0", group: :pools
  @spec resize(atom, pos_integer) :: :ok | {:error, Error.t()}
  def resize(pool \\ Snakepit.Pool, size), do: Manager.resize(pool, size)

  defp run(call) do
    case run_watched(call) do
      {:ok, result, meta} ->
        Telemetry.stop_call(call.span, meta)
        {:ok, result}

      {:error, error, meta} ->
        failed(call, error, meta, &run/1)
    end
  end

  # The function for the progress may raise.
  defp run_watched(call) do
    call.pool.transport.run(call.pool, call.command, call.args, call.options)
  catch
    kind, reason ->
      Telemetry.raise_call(call.span, kind, reason, __STACKTRACE__)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  # Starts a stream for `Snakepit.ChunkStream`, which receives its messages.
  defp open(ref, command, args, options) do
    with {:ok, call} <- prepare(command, args, options, @stream_options, true),
         do: open(ref, call)
  end

  defp open(ref, call) do
    case begin_stream(call, %{ref: ref, pool: call.name, bounded: true, observer: nil}) do
      {:ok, stream} ->
        reopen = fn error, span ->
          # The native library has counted it.
          again(%{call | span: span}, error, nil, &{:again, fn ref -> open(ref, &1) end}, false)
        end

        {:ok, %{stream | span: call.span, reopen: reopen}}

      {:error, error} ->
        failed(call, error, nil, &open(ref, &1))
    end
  end

  defp begin_stream(%{pool: pool} = call, recipient) do
    pool.transport.stream(pool, call.command, call.args, call.options, recipient)
  end

  defp failed(call, error, meta, attempt), do: again(call, error, meta, attempt, true)

  # Makes a call once more that has failed, with `attempt`, or returns its error.
  defp again(call, error, meta, attempt, count?) do
    case Retry.next(call, error) do
      {:again, wait, call} ->
        Process.sleep(wait)

        case Retry.renew(call) do
          {:ok, call} -> attempt.(call)
          {:error, error} -> again(call, error, nil, attempt, true)
        end

      {:error, error} ->
        if count?, do: Numbers.failed(call.pool.native, call.command, error, meta)
        Telemetry.fail_call(call.span, error, meta)
        {:error, error}
    end
  end

  # The event of a call's start has its request id already, and so has its progress.
  defp named(%{telemetry: telemetry}, %{request_id: nil, on_progress: on_progress} = options)
       when telemetry or on_progress != nil do
    case Codec.new_call() do
      {id, request_id} when is_integer(id) -> %{options | request_id: request_id}
      {:error, _error} -> options
    end
  end

  defp named(_pool, options), do: options

  # The metadata of a remote pool. The caller's own count before them.
  defp with_metadata(options, %{options: %{metadata: of_pool}}) when of_pool == %{}, do: options

  defp with_metadata(options, %{options: %{metadata: of_pool}}) do
    own = Map.new(options.metadata, fn {name, value} -> {to_string(name), value} end)
    %{options | metadata: Map.merge(of_pool, own)}
  end

  # Checks a call and begins its span: see `t:Snakepit.Transport.call/0`.
  defp prepare(command, args, options, schema, streaming) do
    with :ok <- Options.check(options, schema),
         name = Keyword.get(options, :pool, Snakepit.Pool),
         {:ok, pool} <- Registry.fetch(name) do
      case CommandPolicy.check(pool.command_policy, command, args, options) do
        {:ok, options} ->
          options = options |> Options.complete(pool.call_options) |> with_metadata(pool)
          options = named(pool, Tracing.with_context(pool, options))

          {:ok,
           %{
             pool: pool,
             name: name,
             command: command,
             args: args,
             options: options,
             retry: Retry.new(pool, command, options),
             span: Telemetry.start_call(pool, name, command, streaming, options)
           }}

        {:error, error} ->
          {:error, %{error | pool: name}}
      end
    end
  end
end
