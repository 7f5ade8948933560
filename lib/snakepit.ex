defmodule Snakepit do
  @external_resource "README.md"
  @moduledoc "README.md" |> File.read!() |> String.split("<!-- body -->") |> List.last()

  alias Snakepit.{
    Bytes,
    Call,
    ChunkStream,
    Error,
    Execution,
    Input,
    Interpreter,
    MapStream,
    Relay
  }

  alias Snakepit.TwoWay
  alias Snakepit.Config.Options
  alias Snakepit.Pool.{Diagnostics, Group, Manager, Registry, Sessions}

  @typedoc """
  A pool: its name; or `{name, node}`, that pool of another node; or `{name, :any}`, that of this node or of a
  connected one: those with a ready worker come first, and among these that of this node. See
  [Beyond one machine](beyond_one_machine.md#erlang-nodes).
  """
  @type pool :: atom | {atom, node | :any}

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

    * `:pool` - the pool's name, default `Snakepit.Pool`; `{name, node}` for a pool on another node, `{name, :any}` for that
      of any node: `t:pool/0`
    * `:timeout` - ms or `:infinity`, including the wait for a worker
    * `:queue_timeout` - ms or `:infinity`, for the wait for a worker alone
    * `:priority` - `:high`, `:normal` (default) or `:low`, while it waits for a worker. Calls are served as if
      they had come a second later for each level below `:high`: a call is overtaken by calls of the next
      level that come up to a second after it, and never by later ones
    * `:session_id` - the session that the call belongs to, see `execute_in_session/4`
    * `:affinity` - `:strict` (default), `:prefer` or, for pools of endpoints, `:server`, for a call in a session: see
      `execute_in_session/4`
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
    * `:tools` - functions that the command may ask while it runs, by `context.call("lookup", id=7)`: a keyword list or
      map of names and functions, each of one argument, a map with string keys. What one returns is the answer:
      `{:ok, value}`, any other value, or `{:error, reason}`, which is a `ToolError` in Python. So is an exception. Each
      runs in a process of its own, which ends with the call. The pool's tools come with them. See [Tools](tools.md)
    * `:tool_timeout` - ms or `:infinity` (default), for each answer of a tool
    * `:max_asks` - how many tools of the call may run at once, default 8. Further asks wait in Python
    * `:retry` - when to make a call again that has failed, `[on: [:worker_crashed], max: 3, backoff: {50, 1_000}]`,
      within the same `:timeout`. See [Retries](reliability.md#retries)

  The pool's options are the defaults. `Snakepit.Error` lists the errors.
  """
  @doc since: "0.1.0", group: :calls
  @spec execute(String.t(), map | keyword, keyword) :: {:ok, map} | {:error, Error.t()}
  def execute(command, args \\ %{}, options \\ []) do
    with {:ok, call} <- prepare(command, args, options, :call, false),
         {:ok, result, _meta} <- Execution.run(call) do
      {:ok, result}
    else
      {:error, error, _meta} -> {:error, error}
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Executes a command in a session: `execute/3` with `session_id: session_id`.

      session = &Snakepit.execute_in_session("user-7", &1, &2, pool: MyApp.Python)
      {:ok, _} = session.("remember", %{name: "Ada"})
      {:ok, %{"result" => "Ada"}} = session.("recall", %{})

  The calls of a session go to one worker, where they share `context.session`. With `affinity: :strict`
  a call waits for that worker; calls of other sessions do not wait for it. With `affinity: :prefer` it
  takes another worker if that one is busy; the session moves there and begins anew. With `affinity: :server` a remote pool
  leaves the choice to the balancer behind its endpoints, see
  [Beyond one machine](beyond_one_machine.md#behind-a-balancer).

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

  Calls run at the same time, as many as the pool can run at once (`:size` times `:max_concurrency`, and times the size of
  a batch if the calls of the command gather), and an element is taken from `enumerable` only when its call can be made.
  Enumerate the stream to make the calls; when the enumeration halts or raises, those that still run are cancelled.

  Options are those of `execute/3` except `:request_id` and `:on_progress`, and:

    * `:ordered` - whether results come in the order of the elements (default), or as soon as each is there.
      In order, at most as many results wait for an earlier one as calls may be in flight
    * `:max_in_flight` - how many calls to have in flight. More than the pool can run keeps its workers busy when
      calls are short: the others wait in its queue, where `:queue_timeout` applies, and of which
      those beyond `:max_queue` fail with `:pool_saturated`

  `:timeout` is that of each call, from the moment its element is taken.

  No processes are started: the one that enumerates receives the results, and a suspended enumeration belongs to it,
  as with `stream/3`. Invalid options, and a pool that does not exist when the enumeration begins, are raised.
  """
  @doc since: "0.1.0", group: :calls
  @spec map(String.t(), Enumerable.t(), keyword) :: Enumerable.t()
  def map(command, enumerable, options \\ []) do
    MapStream.new(enumerable, fn ->
      with :ok <- Execution.check(options, :map),
           {own, options} = Keyword.split(options, [:ordered, :max_in_flight]),
           pool = Keyword.get(options, :pool, Snakepit.Pool),
           {:ok, capacity} <- Relay.capacity(pool, command) do
        {:ok,
         %{
           prepare: &prepare(command, &1, options, :call, false),
           max: max_in_flight(own[:max_in_flight], pool, command, capacity),
           ordered: Keyword.get(own, :ordered, true)
         }}
      end
    end)
  end

  # The capacity of a pool of this node changes with its size, and when its first worker announces which calls gather.
  defp max_in_flight(nil, name, command, capacity) when is_atom(name),
    do: fn ->
      with({:error, _error} <- Registry.capacity(name, command), do: {:ok, capacity}) |> elem(1)
    end

  defp max_in_flight(given, _pool, _command, capacity), do: fn -> given || capacity end

  @doc """
  Executes a streaming command and calls `callback` with each chunk, in the calling process.

      :ok =
        Snakepit.execute_stream("ping_stream", %{count: 3}, fn chunk -> IO.inspect(chunk) end,
          pool: MyApp.Python
        )

  A chunk is a map with string keys: what the Python generator yielded, and `"is_final"`, which is
  true for the generator's return value. The callback's return value is ignored, except `:halt`, which
  cancels the stream. An exception in the callback cancels the stream and is raised.

  Options are those of `execute/3` except `:on_progress`, and:

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
    do: Interpreter.eval(code, bindings, options, &run_stream/4)

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
         pool = Keyword.get(options, :pool, Snakepit.Pool),
         {:ok, pool} <- Relay.resolve(pool, session_id),
         do: Relay.ask(pool, Sessions, :end_session, [session_id])
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

  `Snakepit.Call` lists the events. Options as for `execute_stream/4` except `:retry`, but `:demand` is the
  number of chunks to ask for at the start. No more are sent until `ask/2` asks for them. Only their number
  is limited, not their size. The caller does not wait for another node: whatever that refuses arrives as an event.
  """
  @doc since: "0.1.0", group: :streams
  @spec start_stream(String.t(), map | keyword, keyword) :: {:ok, Call.t()} | {:error, Error.t()}
  def start_stream(command, args \\ %{}, options \\ []) do
    with {:ok, call} <- prepare(command, args, options, :messages, true),
         do: Execution.start_stream(call)
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
  Makes an argument an input stream: Python takes the items of `enumerable` while the command runs.

      rows = Stream.map(1..1000, &%{id: &1})
      args = %{rows: Snakepit.input(rows)}
      {:ok, %{"rows" => 1000}} = Snakepit.execute("train", args, pool: MyApp.Python)

  In Python the argument is an iterator, annotated as `rows: Input[dict]`. The calling process takes an item from the
  enumerable only when Python has asked for it: at most 64 items, or 256 KiB of them, are ahead of the command. See
  [Input streams](input_streams.md). When Python takes no more, because the command returns, raises or is cancelled, the enumerable is halted, which closes what it has opened; one that waits for its next item
  is halted when that has come. If the enumerable raises, Python's iterator raises an `InputError`, and once the command has
  ended the exception is raised in the caller. `retry:` has no effect on a call with an
  input. A call that certainly has not started is given to another worker all the same.

  With `:push` instead of an enumerable, processes send the items of a stream that `start_stream/3` has started, by `push/3`
  and `finish/2`. `start_stream/3` takes only such inputs.

  An input is an argument of its own, of `execute/3`, of a stream or of a call in a session; a call may have several. Options:

    * `:max_items` - how many items may be ahead of those that the command has taken, default 64, at most 65,536
    * `:max_bytes` - how many bytes of items may be, default 262,144, at most 16,777,216. An item of any size is sent while fewer are ahead
  """
  @doc since: "0.1.0", group: :streams
  @spec input(Enumerable.t() | :push, keyword) :: Input.t()
  def input(enumerable, options \\ []) do
    with {:error, error} <-
           Options.check(options, %{
             max_items: {:positive, 65_536},
             max_bytes: {:positive, 16_777_216}
           }),
         do: raise(error)

    if enumerable != :push and Enumerable.impl_for(enumerable) == nil do
      raise ArgumentError,
            "expected an enumerable or :push for an input, got: #{inspect(enumerable)}"
    end

    %Input{
      source: enumerable,
      max_items: Keyword.get(options, :max_items, 64),
      max_bytes: Keyword.get(options, :max_bytes, 262_144)
    }
  end

  @doc """
  Sends an item to an input of a stream that `start_stream/3` has started with `Snakepit.input(:push)`.

      args = %{messages: Snakepit.input(:push)}
      {:ok, call} = Snakepit.start_stream("chat", args, pool: MyApp.Python)
      :ok = Snakepit.push(call, %{text: "hello"})
      :ok = Snakepit.finish(call)

  While Python wants no further items, as many as the input allows are ahead of the command, it waits: any process may
  push, and waits by itself. Returns `{:error, %Snakepit.Error{reason: :input_closed}}` if Python takes no more items, because
  the call has ended or the command reads no further, and another error if the item cannot be sent. Options:

    * `:timeout` - for how long to wait, in ms, or `:infinity` (default); after that it is `:busy`, and the item is not
      sent. With 0 it does not wait
    * `:input` - the name of the argument, if the call has several inputs
  """
  @doc since: "0.1.0", group: :streams
  @spec push(Call.t(), term, keyword) :: :ok | :busy | {:error, Error.t()}
  def push(call, item, options \\ []) do
    with :ok <- Options.check(options, %{timeout: :patience, input: :input}) do
      two_way = pushed!(call)
      TwoWay.push(two_way, input_name(options), item, Keyword.get(options, :timeout, :infinity))
    end
  end

  @doc """
  Ends the inputs of a stream that `start_stream/3` has started with `Snakepit.input(:push)`: Python gets the items that are
  on their way, and then the end. The command may go on. With the option `:input` only the one of that name.
  """
  @doc since: "0.1.0", group: :streams
  @spec finish(Call.t(), keyword) :: :ok | {:error, Error.t()}
  def finish(call, options \\ []) do
    with :ok <- Options.check(options, %{input: :input}),
         do: call |> pushed!() |> TwoWay.finish_input(input_name(options))
  end

  defp pushed!(%Call{two_way: %{pushed: pushed} = two_way}) when pushed != %{}, do: two_way

  defp pushed!(other) do
    raise ArgumentError,
          "expected the Snakepit.Call of a stream with an input, Snakepit.input(:push), got: #{inspect(other)}"
  end

  defp input_name(options),
    do: with(name when name != nil <- options[:input], do: to_string(name))

  @doc """
  Asks each of a pool's workers whether it is healthy. The request does not wait behind calls.

      {:ok, %{healthy: true, ready: 4, size: 4, workers: [%{id: _, state: :ready} | _]}} =
        Snakepit.health(MyApp.Python)
  """
  @doc since: "0.1.0", group: :pools
  @spec health(pool) :: {:ok, map} | {:error, Error.t()}
  def health(pool \\ Snakepit.Pool), do: Relay.ask(pool, Diagnostics, :health)

  @doc """
  Describes a pool: its `:adapter`, `:size` and `:max_concurrency`, its limits `:max_requests`, `:max_age` and
  `:max_memory`, and the `:worker_type`, `:version`,
  `:commands` (a map of names to signatures and descriptions) and `:system` of its workers. The last four
  are nil while no worker answers.
  """
  @doc since: "0.1.0", group: :pools
  @spec info(pool) :: {:ok, map} | {:error, Error.t()}
  def info(pool \\ Snakepit.Pool) do
    with {:ok, pool} <- Relay.resolve(pool), do: Relay.ask(pool, Diagnostics, :info)
  end

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
  @spec commands(pool) :: {:ok, [map]} | {:error, Error.t()}
  def commands(pool \\ Snakepit.Pool) do
    with {:ok, pool} <- Relay.resolve(pool), do: Relay.ask(pool, Diagnostics, :commands)
  end

  @doc """
  Returns a pool's statistics, a map with

    * `:size`, `:ready`, the number of `:queued` and `:in_flight` calls, `:sessions`,
      `:restarts`, and how many workers were `:recycled`
    * the sums of `:requests`, `:errors` and `:memory_bytes` of its current workers, as these report them
    * `:calls` - how many calls and streams have ended since the pool was started, and `:errors_by_reason`, a map of
      the reasons of `Snakepit.Error` to the number of calls that failed with each
    * `:asks` - how often commands have asked tools of their callers (`tools:`)
    * `:commands` - a map of the commands to `:calls`, `:errors`, a map by reason, `:asks` and `:failed_asks`, those that
      have ended with an error for the command, and `:batch_sizes`, a map of the sizes of
      batches to their number. Beyond 1,000 commands further ones are counted as `"(others)"`
    * `:last_minute` - the number of `:calls` that got a worker, with `:p50`, `:p90` and `:p99` of the wait for a worker,
      `:queue_us`, and of everything after it, `:execution_us`, in microseconds and to within 2 %; nil without calls. `:ask_us`
      has those of the tools

  A call that is tried again counts once. A stream that its consumer has halted is no error, and a call whose caller
  has died is not counted.
  """
  @doc since: "0.1.0", group: :pools
  @spec stats(pool) :: {:ok, map} | {:error, Error.t()}
  def stats(pool \\ Snakepit.Pool), do: Relay.ask(pool, Diagnostics, :stats)

  @doc """
  Lists a pool's workers, each as a map with the keys below. While a worker is being replaced, both it and its
  replacement are listed, with the same id and slot.

    * `:id`, and `:os_pid`, nil while there is no process, and for an endpoint
    * `:endpoint` - the address of an endpoint of a remote pool, nil for a process
    * `:slot` - its number in the pool, from 0 on, which its successors keep (`SNAKEPIT_WORKER_SLOT`)
    * `:state` - `:starting`, `:ready`, `:draining` (it takes no calls, or only those of its sessions), or `:waiting` for the next attempt to start, with the
      `:error` of the last one. An endpoint is `:connecting`, `:ready`, `:draining` (its server takes no calls) or `:ejected` (it takes no
      calls for a while), with the `:error` that is the reason
    * `:in_flight` - the number of its calls
    * `:python_stuck_ms` - for how long a command has held Python's lock in code that is not Python, so that
      nothing else runs in the worker. It is 0 if the worker is only busy, and always 0 for the grpcio server
      and over stdin and stdout, where a worker does not answer at all in that case
    * `:requests`, `:errors`, `:sessions`, `:uptime_ms`, `:memory_bytes` and `:cpu_percent` (of one core,
      since its start) - as the worker reports them, nil if it does not answer
    * `:progress` - of each running call that has reported one (`context.progress`), a map with `:command`,
      `:request_id`, `:fraction` from 0.0 to 1.0 and `:message`
  """
  @doc since: "0.1.0", group: :pools
  @spec list_workers(pool) :: {:ok, [map]} | {:error, Error.t()}
  def list_workers(pool \\ Snakepit.Pool), do: Relay.ask(pool, Diagnostics, :list_workers)

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
  @spec restart(pool, keyword) :: :ok | {:error, Error.t()}
  def restart(pool \\ Snakepit.Pool, options \\ []) do
    with :ok <- Options.check(options, %{timeout: :timeout}) do
      timeout = Keyword.get(options, :timeout, :infinity)
      Relay.ask(pool, Manager, :restart, ["Snakepit.restart/2", timeout])
    end
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
  @spec resize(pool, pos_integer) :: :ok | {:error, Error.t()}
  def resize(pool \\ Snakepit.Pool, size), do: Relay.ask(pool, Manager, :resize, [size])

  @doc """
  Lists the nodes on which a pool of this name runs, this node first: those that `pool: {name, :any}` chooses from.

      for node <- Snakepit.nodes(MyApp.Python),
          do: {node, Snakepit.stats({MyApp.Python, node})}
  """
  @doc since: "0.1.0", group: :pools
  @spec nodes(atom) :: [node]
  defdelegate nodes(pool \\ Snakepit.Pool), to: Group

  # Starts a stream for `Snakepit.ChunkStream`, which receives its messages.
  defp open(ref, command, args, options) do
    with {:ok, call} <- prepare(command, args, options, :stream, true),
         do: Execution.open(ref, call)
  end

  # Checks a call and begins its span.
  defp prepare(command, args, options, kind, streaming) do
    with :ok <- Execution.check(options, kind) do
      pool = Keyword.get(options, :pool, Snakepit.Pool)
      Execution.prepare(Relay.target(pool, options), command, args, options, streaming)
    end
  end
end
