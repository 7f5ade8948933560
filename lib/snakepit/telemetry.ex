defmodule Snakepit.Telemetry do
  @moduledoc """
  The events that Snakepit emits through `:telemetry`, if the application depends on it. Otherwise
  they cost nothing; a pool checks for it when it starts.

      defmodule MyApp.SlowCalls do
        require Logger

        def handle_event(_event, measurements, %{command: command}, _config) do
          ms = System.convert_time_unit(measurements.duration, :native, :millisecond)
          if ms > 1_000, do: Logger.warning("\#{command} took \#{ms} ms")
        end
      end

      :telemetry.attach("slow", [:snakepit, :call, :stop], &MyApp.SlowCalls.handle_event/4, nil)

  Times are in native units (`System.convert_time_unit/3`). The metadata of each event has
  `:pool`, except that of `[:snakepit, :grpc, :request]`. That of `:start`, `:stop`, `:exception` and `:retry` of a
  call has `:command`, `:streaming`, `:request_id`, `:session_id` (nil without a session), `:priority`, `:node` and
  `:telemetry_span_context`, that of workers has `:worker_id`.

  ## Where handlers run

  The calling process emits the events of a call: a slow handler slows that call. These are
  `:start`, `:retry`, `:stop` and `:exception` of `[:snakepit, :call]`, `[:snakepit, :grpc, :request]`,
  `[:snakepit, :queue, :full]` and `[:snakepit, :session, :ended]`.

  A separate process of the pool emits all other events, in order, and also the end of a call of
  `Snakepit.start_stream/3`. Their handlers delay only each other, and may call the pool:
  `Snakepit.stats/1` and similar functions, and `Snakepit.execute/3`. By then the state that an
  event reports may have changed. While 10,000 events wait, further ones are dropped, which is
  logged.

  ## Calls

  A call is a span that begins when the call has passed its checks and ends when its caller has
  the result.

  | event | measurements | further metadata |
  |---|---|---|
  | `[:snakepit, :call, :start]` | `:monotonic_time`, `:system_time` | |
  | `[:snakepit, :call, :stop]` | `:duration`, `:attempts`, `:queue_time`, `:execution_time`; for a stream also `:chunks` and `:first_chunk_time` | `:worker_id`, `:halted` |
  | `[:snakepit, :call, :exception]` | the same | `:worker_id`, `:kind`, `:reason`, `:stacktrace` |
  | `[:snakepit, :call, :retry]` | `:attempt`, `:wait` | `:reason` |
  | `[:snakepit, :grpc, :request]` | `:duration` | only `:command` and `:streaming` |
  | `[:snakepit, :call, :cancelled]` | `:duration` | only `:pool`, `:command`, `:request_id`, `:worker_id`, `:how` |

  A call that returns an error is an `:exception` of the kind `:error` with the `Snakepit.Error`
  as its `:reason`; an exception in the callback of a stream is one, too. A stream that its
  consumer ended early is a `:stop` with `halted: true`. `:queue_time` is the wait for a worker
  and `:execution_time` is everything after it; a stream that failed or was halted does not have
  them, nor does a call that was refused at once (`:pool_saturated`, `:invalid_args`), nor, over stdin and stdout,
  one that has got no worker. `:first_chunk_time` is the time from the call to its first chunk, nil without one.

  A call of a command that takes batches (`@command(batch=32)`) also has `:batch_size`, the number
  of calls in its batch, and `:batch_wait`, the time from its arrival in the worker to the start of
  the batch. For the number of batches sum up `1 / batch_size`.

  An attempt that failed and is followed by another one (`retry:`) is a `:retry`: `:attempt` is its number, from 1 on,
  `:reason` its `Snakepit.Error`, and `:wait` the time until the next one. `:attempts` of the end is how often the
  call was made in all; `:duration` includes all attempts and the waits between them, `:queue_time` and
  `:execution_time` are those of the last one.

  `:node` is the node of the pool. A call to a pool on another node emits its events on both nodes: on the caller's
  with that `:node`, and on the pool's node as any call there. Count events whose `:node` is `node()` to count each call
  once. `:retry` is emitted where the decision is made, which is the pool's node unless the reason is `:node_unavailable`.

  `[:snakepit, :grpc, :request]` is emitted at the end of each call over gRPC, whatever its result.

  `[:snakepit, :call, :cancelled]` reports that a command has ended in Python after its call had
  ended: the call was halted or cancelled, its deadline passed, or its caller died. Until then the
  command occupied its place on the worker; `:duration` is the time from the end of the call to
  the end of the command. `:how` is `:stopped` (the handler returned or raised on its own),
  `:closed` (its generator was closed, its task cancelled), `:killed` (it continued past
  `:kill_grace`, or the worker was lost) or `:unknown` (the server has stopped it, but does not
  report how).

  ## Tools

  | event | measurements | further metadata |
  |---|---|---|
  | `[:snakepit, :ask, :start]` | `:monotonic_time`, `:system_time` | |
  | `[:snakepit, :ask, :stop]` | `:duration` | `:outcome` |
  | `[:snakepit, :ask, :exception]` | `:duration` | `:kind`, `:reason`, `:stacktrace` |

  Each ask of a command for a tool of its caller (`tools:`) is a span. Its metadata has `:tool`, `:ask_id`, `:command`,
  `:request_id`, `:session_id` and `:telemetry_span_context`. `:outcome` is `:ok`, `:error` if the tool has returned
  `{:error, reason}` or a value that cannot be sent, or `:cancelled` if the tool was ended because the command no longer
  waited for it or the call had ended. A tool that raises, throws or exits is an `:exception`; so is one that
  takes longer than `:tool_timeout`, with the kind `:exit` and the reason `:timeout`. The task of the tool emits these
  events, except those of tools that were ended. In a call to a pool on another node, asks for the call's own tools emit
  their events on both nodes; those for tools of the pool's option only on the pool's node, where these run.

  ## Pools and workers

  | event | measurements | further metadata |
  |---|---|---|
  | `[:snakepit, :queue, :full]` | `:max_queue` | `:command` |
  | `[:snakepit, :worker, :started]` | `:system_time` | `:os_pid` |
  | `[:snakepit, :worker, :ready]` | `:duration` since its start | `:os_pid` |
  | `[:snakepit, :worker, :killed]` | `:system_time` | `:os_pid`, `:why`, a text |
  | `[:snakepit, :worker, :stopped]` | `:duration` since its start | `:os_pid`, `:why` |
  | `[:snakepit, :worker, :restarted]` | `:attempt`, from 1 on | `:why` |
  | `[:snakepit, :worker, :recycled]` | `:age` since it was ready | `:reason`, `:why` |
  | `[:snakepit, :health, :failed]` | `:missed` in a row | `:why` |
  | `[:snakepit, :health, :stuck]` | `:python_stuck_ms` | |
  | `[:snakepit, :pool, :restarted]` | `:duration`, `:replaced` workers | `:why`, `:error` |
  | `[:snakepit, :pool, :resized]` | `:size`, `:previous_size` | |
  | `[:snakepit, :pool, :fallback]` | `:system_time` | `:adapter`, `:fallback_adapter`, `:why` |
  | `[:snakepit, :endpoint, :ready]` | `:duration` since its last loss, or since the pool's start | `:endpoint` |
  | `[:snakepit, :endpoint, :failed]` | `:attempt`, from 1 on | `:endpoint`, `:why` |
  | `[:snakepit, :endpoint, :ejected]` | `:duration`, how long it was ready | `:endpoint`, `:why` |
  | `[:snakepit, :endpoint, :lost]` | `:duration`, how long it was ready | `:endpoint`, `:why` |

  The workers of a remote pool emit the events of `:endpoint`, whose address is in the metadata: `:failed` for each attempt
  to connect that has failed, `:lost` when the connection is lost, or accepts no more calls because the server
  ends, and `:ejected` when the endpoint takes no calls for a while.

  The last event of a worker is `:stopped`, after `:killed` if Snakepit killed it; its `:why` is
  `:shutdown` when the pool stops. `:stuck` is emitted with each health check of a worker if one
  of its commands has let no other Python thread run for a second or more; the worker stays in the
  pool. `:restarted` is emitted when its successor is started. `:fallback` is emitted when no
  worker can use gRPC and the pool continues with the workers of its `:fallback_adapter`.

  The `:restarted` event of a pool marks the end of `Snakepit.restart/2` or of a reload (`reload:
  true`): `:why` is a text that says which, and which files have changed; `:error` is nil, or the
  `Snakepit.Error` that stopped it. The workers that it replaced emit `:started`, `:ready` and
  `:stopped`, but no `:restarted` of their own.

  `:recycled` is emitted when the replacement of a worker is ready that has reached a limit: its `:reason`
  is `:max_requests`, `:max_age` or `:max_memory`, and `:why` is a text. A worker killed because it uses more
  than twice `:max_memory` emits `:killed` instead.

  ## Events of commands

  `[:snakepit, :python, :event]` is what a command has reported by `context.telemetry`. Its
  measurements are the map that Python gave, with strings as keys. The metadata has `:name`, `:metadata`,
  the other map that Python gave, `:command`, `:worker_id`, `:request_id` and `:session_id` (nil without
  a session).

      # context.telemetry("load", {"rows": 3}, {"file": "x.csv"})
      defmodule MyApp.Loads do
        def handle_event(_event, %{"rows" => rows}, %{name: "load", metadata: metadata}, _config),
          do: IO.puts("\#{metadata["file"]} has \#{rows} rows")
      end

      :telemetry.attach("loads", [:snakepit, :python, :event], &MyApp.Loads.handle_event/4, nil)

  A worker sends at most 1,000 of them a second.

  ## Sessions

  `[:snakepit, :session, event]` has the measurement `:system_time` and the metadata `:session_id`
  and `:worker_id` (nil for `:ended`). The `event` is one of

    * `:created` - the session has begun, or begun anew, on that worker
    * `:moved` - it has moved to that worker because its own was busy (`affinity: :prefer`)
    * `:lost` - it was lost with that worker
    * `:expired` - no call has used it for `:session_ttl`
    * `:evicted` - it was the least recently used beyond `:max_sessions`
    * `:ended` - `Snakepit.end_session/2` has ended it
  """

  @compile {:no_warn_undefined, :telemetry}

  alias Snakepit.Error
  alias Snakepit.Pool.Notifier
  alias Snakepit.Telemetry.CallLogger

  @calls for(
           name <- [:start, :retry, :stop, :exception, :cancelled],
           do: [:snakepit, :call, name]
         )
  @asks for name <- [:start, :stop, :exception], do: [:snakepit, :ask, name]
  @workers for name <- [:started, :ready, :killed, :stopped, :restarted, :recycled],
               do: [:snakepit, :worker, name]
  @endpoints for name <- [:ready, :failed, :ejected, :lost], do: [:snakepit, :endpoint, name]
  @sessions for name <- [:created, :moved, :lost, :expired, :evicted, :ended],
                do: [:snakepit, :session, name]
  @others [
    [:snakepit, :grpc, :request],
    [:snakepit, :queue, :full],
    [:snakepit, :health, :failed],
    [:snakepit, :health, :stuck],
    [:snakepit, :pool, :restarted],
    [:snakepit, :pool, :resized],
    [:snakepit, :pool, :fallback],
    [:snakepit, :python, :event]
  ]
  @events @calls ++ @asks ++ @workers ++ @endpoints ++ @sessions ++ @others

  defmodule Span do
    @moduledoc false
    defstruct [:started, :metadata, :request_event, :first_chunk, chunks: 0, attempts: 1]
  end

  @doc "Returns every event, for `:telemetry.attach_many/4`."
  @spec events() :: [[atom]]
  def events, do: @events

  @doc """
  Returns definitions of metrics for the library `telemetry_metrics`, as data: a list of
  `{type, name, options}`, where the type is the name of a function of `Telemetry.Metrics`. A few lines make them
  what a reporter takes:

      def metrics do
        for {type, name, options} <- Snakepit.Telemetry.metrics(),
            do: apply(Telemetry.Metrics, type, [name, options])
      end

  They count and time calls by pool and command, errors by reason, tools, full queues, workers that die, and sessions.
  Leave out what you do not need, by its name; `:reporter_options` have the bounds of histograms, in ms, for reporters such as
  `telemetry_metrics_prometheus`.
  """
  @doc since: "0.1.0"
  @spec metrics() :: [{:counter | :sum | :last_value | :distribution, String.t(), keyword}]
  defdelegate metrics, to: Snakepit.Telemetry.Metrics, as: :all

  @doc """
  Logs each call and stream that fails, with its pool, command, time, request id and error. Without this nothing is
  logged: errors are returned to the caller, who may expect them.

      :ok = Snakepit.Telemetry.attach_logger(level: :warning)

  Options: `:level` - `:debug`, `:info`, `:warning` or `:error` (default); `:pool` - logs the calls of that pool only. A
  second call replaces the options of the first. Needs `:telemetry`, and returns an error without it.
  """
  @doc since: "0.1.0"
  @spec attach_logger(keyword) :: :ok | {:error, Error.t()}
  def attach_logger(options \\ []) do
    if available?() do
      CallLogger.attach(options)
    else
      message =
        "attach_logger/1 needs the library telemetry: add {:telemetry, \"~> 1.0\"} to the dependencies"

      {:error, %Error{reason: :invalid_options, message: message}}
    end
  end

  @doc "Ends what `attach_logger/1` has begun."
  @doc since: "0.1.0"
  @spec detach_logger() :: :ok
  def detach_logger, do: if(available?(), do: CallLogger.detach(), else: :ok)

  @doc false
  def available? do
    Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :execute, 3)
  end

  @doc false
  # Returns nil if the pool has no telemetry. The functions that take a span then do nothing.
  def start_call(%{telemetry: false}, _name, _command, _streaming, _options, _started), do: nil

  def start_call(pool, name, command, streaming, options, started) do
    {name, node} = if is_tuple(name), do: name, else: {name, node()}

    metadata = %{
      pool: name,
      node: node,
      command: command,
      streaming: streaming,
      request_id: options.request_id,
      session_id: options.session_id,
      priority: options.priority,
      telemetry_span_context: make_ref()
    }

    measurements = %{monotonic_time: started, system_time: System.system_time()}
    :telemetry.execute([:snakepit, :call, :start], measurements, metadata)
    %Span{started: started, metadata: metadata, request_event: pool.transport.request_event()}
  end

  @doc false
  # The next attempt goes to this pool.
  def move_call(nil, _name), do: nil
  def move_call(span, {_name, node}), do: put_in(span.metadata.node, node)
  def move_call(span, _name), do: put_in(span.metadata.node, node())

  @doc false
  def chunks(nil, _count), do: nil
  def chunks(%{first_chunk: nil} = span, count), do: chunks(%{span | first_chunk: now()}, count)
  def chunks(span, count), do: %{span | chunks: span.chunks + count}

  @doc false
  # `meta` is that of `Snakepit.Transport`, nil if there is none.
  def stop_call(span, meta, halted \\ false)
  def stop_call(nil, _meta, _halted), do: :ok

  def stop_call(span, meta, halted) do
    metadata = Map.merge(span.metadata, %{halted: halted, worker_id: meta && meta.worker_id})
    end_call(:stop, span, meta, metadata)
  end

  @doc false
  def fail_call(nil, _error, _meta), do: :ok

  def fail_call(span, %Error{} = error, meta) do
    raise_call(span, :error, error, [], error.worker_id, meta)
    queue_full(span, error)
  end

  @doc false
  # The attempt of this number has failed, and another one follows in `wait` ms.
  def retry_call(nil, _error, _attempt, _wait), do: nil

  def retry_call(span, error, attempt, wait) do
    wait = System.convert_time_unit(wait, :millisecond, :native)
    metadata = Map.put(span.metadata, :reason, error)
    :telemetry.execute([:snakepit, :call, :retry], %{attempt: attempt, wait: wait}, metadata)
    queue_full(span, error)
    %{span | attempts: attempt + 1}
  end

  @doc false
  def raise_call(span, kind, reason, stacktrace, worker_id \\ nil, meta \\ nil)
  def raise_call(nil, _kind, _reason, _stacktrace, _worker_id, _meta), do: :ok

  def raise_call(span, kind, reason, stacktrace, worker_id, meta) do
    failure = %{kind: kind, reason: reason, stacktrace: stacktrace, worker_id: worker_id}
    end_call(:exception, span, meta, Map.merge(span.metadata, failure))
  end

  @doc false
  # The span of an ask; nil without telemetry. It begins by `start_ask/1` in the task that runs the tool.
  def ask(%{telemetry: false}, _tool, _id, _started), do: nil

  def ask(%{about: about}, tool, id, started) do
    of_ask = %{tool: tool, ask_id: id, telemetry_span_context: make_ref()}
    %Span{started: started, metadata: Map.merge(about, of_ask)}
  end

  @doc false
  def start_ask(nil), do: :ok

  def start_ask(span) do
    measurements = %{monotonic_time: span.started, system_time: System.system_time()}
    :telemetry.execute([:snakepit, :ask, :start], measurements, span.metadata)
  end

  @doc false
  def stop_ask(nil, _outcome), do: :ok

  def stop_ask(span, outcome) do
    metadata = Map.put(span.metadata, :outcome, outcome)
    :telemetry.execute([:snakepit, :ask, :stop], %{duration: now() - span.started}, metadata)
  end

  @doc false
  def raise_ask(nil, _kind, _reason, _stacktrace), do: :ok

  def raise_ask(span, kind, reason, stacktrace) do
    failure = %{kind: kind, reason: reason, stacktrace: stacktrace}
    metadata = Map.merge(span.metadata, failure)
    :telemetry.execute([:snakepit, :ask, :exception], %{duration: now() - span.started}, metadata)
  end

  @doc false
  # The tool was ended: its task emits nothing.
  def ask_ended(nil, _why), do: :ok

  def ask_ended(span, why) do
    Notifier.run(span.metadata.pool, fn ->
      if why == :cancelled,
        do: stop_ask(span, :cancelled),
        else: raise_ask(span, :exit, why, [])
    end)
  end

  @doc false
  # A time of the native library, in µs, as telemetry has times.
  def native(micros), do: System.convert_time_unit(micros, :microsecond, :native)

  @doc false
  # For a stream whose caller receives its messages itself.
  def stream_ended(span, stream_end),
    do: Notifier.run(span.metadata.pool, fn -> end_stream(span, stream_end) end)

  defp end_stream(span, %{meta: meta, first_chunk_us: first_chunk_us} = stream_end) do
    first = first_chunk_us && span.started + native(first_chunk_us)
    span = %{span | chunks: stream_end.chunks, first_chunk: first}

    case stream_end.event do
      {:done, _info} -> stop_call(span, meta)
      {:error, %Error{reason: :cancelled}} -> stop_call(span, meta, true)
      {:error, error} -> fail_call(span, error, meta)
    end
  end

  @doc false
  def call_cancelled(duration, metadata),
    do: emit([:snakepit, :call, :cancelled], %{duration: duration}, metadata)

  @doc false
  def worker(event, measurements, metadata),
    do: emit([:snakepit, :worker, event], measurements, metadata)

  @doc false
  def endpoint(event, measurements, metadata),
    do: emit([:snakepit, :endpoint, event], measurements, metadata)

  @doc false
  def health_failed(missed, metadata),
    do: emit([:snakepit, :health, :failed], %{missed: missed}, metadata)

  @doc false
  def health_stuck(milliseconds, metadata),
    do: emit([:snakepit, :health, :stuck], %{python_stuck_ms: milliseconds}, metadata)

  @doc false
  # What a command has reported by `context.telemetry`.
  def python_event(event) do
    {measurements, metadata} = Map.pop!(event, :measurements)
    emit([:snakepit, :python, :event], measurements, metadata)
  end

  @doc false
  def pool_fell_back(metadata),
    do: emit([:snakepit, :pool, :fallback], %{system_time: System.system_time()}, metadata)

  @doc false
  def pool_restarted(measurements, metadata),
    do: emit([:snakepit, :pool, :restarted], measurements, metadata)

  @doc false
  def pool_resized(measurements, metadata),
    do: emit([:snakepit, :pool, :resized], measurements, metadata)

  @doc false
  # The calling process ends a session, and emits the event.
  def session(:ended, metadata) do
    if available?() do
      measurements = %{system_time: System.system_time()}
      :telemetry.execute([:snakepit, :session, :ended], measurements, metadata)
    end
  end

  def session(event, metadata),
    do: emit([:snakepit, :session, event], %{system_time: System.system_time()}, metadata)

  defp end_call(event, span, meta, metadata) do
    duration = now() - span.started
    measurements = %{duration: duration, attempts: span.attempts} |> times(meta) |> stream(span)
    :telemetry.execute([:snakepit, :call, event], measurements, metadata)

    if span.request_event do
      of_request = Map.take(metadata, [:command, :streaming])
      :telemetry.execute(span.request_event, %{duration: duration}, of_request)
    end

    :ok
  end

  defp times(measurements, nil), do: measurements

  defp times(measurements, meta) do
    measurements
    |> Map.put(:queue_time, native(meta.queue_us))
    |> Map.put(:execution_time, native(meta.execution_us))
    |> batch(meta)
  end

  defp batch(measurements, %{batch_size: size, batch_wait_us: wait_us}) when size > 0,
    do: Map.merge(measurements, %{batch_size: size, batch_wait: native(wait_us)})

  defp batch(measurements, _meta), do: measurements

  defp stream(measurements, %{metadata: %{streaming: false}}), do: measurements

  defp stream(measurements, span) do
    first = span.first_chunk && span.first_chunk - span.started
    Map.merge(measurements, %{chunks: span.chunks, first_chunk_time: first})
  end

  defp queue_full(span, %{reason: :pool_saturated} = error) do
    metadata = Map.take(span.metadata, [:pool, :command])

    :telemetry.execute(
      [:snakepit, :queue, :full],
      Map.take(error.details, [:max_queue]),
      metadata
    )
  end

  defp queue_full(_span, _error), do: :ok

  defp now, do: System.monotonic_time()

  defp emit(event, measurements, metadata) do
    if available?() do
      Notifier.run(metadata.pool, fn -> :telemetry.execute(event, measurements, metadata) end)
    else
      :ok
    end
  end
end
