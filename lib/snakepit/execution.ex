defmodule Snakepit.Execution do
  @moduledoc false
  # A call from its checks to its result: options, pool, telemetry, retries. The functions of `Snakepit` make calls
  # with it, and so does `Snakepit.Relay` for callers on other nodes.

  alias Snakepit.{Call, Codec, Error, Retry, Telemetry, Tracing, Transport}
  alias Snakepit.Config.Options
  alias Snakepit.Pool.{CommandPolicy, Numbers}
  alias Snakepit.TwoWay.Tools

  @own %{pool: :pool, retry: :retry}
  @call Map.merge(Options.call(), @own)
  @stream Map.merge(Options.stream(), @own)

  @schemas %{
    call: @call,
    stream: @stream,
    # A stream whose messages its owner receives is not repeated.
    messages: Map.delete(@stream, :retry),
    map:
      @call
      |> Map.drop([:request_id, :on_progress])
      |> Map.merge(%{
        ordered: {:one_of, [true, false]},
        max_in_flight: {:positive, 1_000_000}
      })
  }

  @doc "Checks the options of a function: `:call`, `:stream`, `:messages` (of a stream) or `:map`."
  @spec check(keyword, atom) :: :ok | {:error, Error.t()}
  def check(options, kind), do: Options.check(options, Map.fetch!(@schemas, kind))

  @doc "Prepares a call whose options have passed `check/2`, and begins its span."
  @spec prepare(Transport.target(), String.t(), map | keyword, keyword, boolean) ::
          {:ok, Transport.call()} | {:error, Error.t()}
  def prepare(target, command, args, options, streaming) do
    with {:ok, name, pool} <- target.fetch.() do
      with {:ok, options} <- CommandPolicy.check(pool.command_policy, command, args, options),
           options = Options.complete(options, pool.call_options),
           :ok <- check_affinity(options, pool) do
        options = named(pool, Tracing.with_context(pool, options))
        options = if options.tools, do: Tools.bind(options, pool, name, command), else: options
        # To look at the clock takes as long as most of this together.
        started = System.monotonic_time()

        {:ok,
         %{
           target: target,
           pool: pool,
           name: name,
           command: command,
           args: args,
           options: options,
           retry: Retry.new(pool, command, options, started),
           span: Telemetry.start_call(pool, name, command, streaming, options, started)
         }}
      else
        {:error, error} -> {:error, %{error | pool: name}}
      end
    end
  end

  # A worker that the pool has started has no balancer before it.
  defp check_affinity(%{affinity: :server, session_id: id}, %{options: %{endpoints: nil}})
       when id != nil do
    message =
      "affinity: :server is for pools of :endpoints, whose balancer finds the server of a session; this pool " <>
        "starts its workers, and keeps a session to its worker with affinity: :strict"

    {:error, %Error{reason: :invalid_options, message: message}}
  end

  defp check_affinity(_options, _pool), do: :ok

  # The event of a call's start has its request id already, and so have its progress and its tools.
  defp named(
         %{telemetry: telemetry} = pool,
         %{request_id: nil, on_progress: on_progress, tools: tools} = options
       )
       when telemetry or on_progress != nil or tools != nil do
    case new_id(pool) do
      request_id when is_binary(request_id) -> %{options | request_id: request_id}
      {:error, _error} -> options
    end
  end

  defp named(_pool, options), do: options

  # For a call to another node this one needs no native library.
  defp new_id(%{node: _of_pool}), do: Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
  defp new_id(_pool), do: with({_id, request_id} <- Codec.new_call(), do: request_id)

  @doc "Runs a call and waits for its result."
  @spec run(Transport.call()) ::
          {:ok, map, Transport.meta()} | {:error, Error.t(), Transport.meta() | nil}
  def run(call) do
    case run_watched(call) do
      {:ok, result, meta} ->
        Telemetry.stop_call(call.span, meta)
        {:ok, result, meta}

      {:error, error, meta} ->
        with {:error, error} <- again(call, error, meta, &run/1, true), do: {:error, error, meta}
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

  @doc """
  Starts a stream for `Snakepit.ChunkStream`, which receives its messages. They are `bounded` by their bytes if it asks
  for one more chunk after each one.
  """
  @spec open(reference, Transport.call(), boolean) :: {:ok, Call.t()} | {:error, Error.t()}
  def open(ref, call, bounded \\ true) do
    case begin_stream(call, %{ref: ref, pool: call.name, bounded: bounded, observer: nil}) do
      {:ok, stream} ->
        reopen = fn error, span ->
          # The native library has counted it.
          again(
            %{call | span: span},
            error,
            nil,
            &{:again, fn ref -> open(ref, &1, bounded) end},
            false
          )
        end

        {:ok, %{stream | span: call.span, reopen: reopen}}

      {:error, error} ->
        again(call, error, nil, &open(ref, &1, bounded), true)
    end
  end

  @doc "Starts a stream whose messages the calling process receives itself."
  @spec start_stream(Transport.call()) :: {:ok, Call.t()} | {:error, Error.t()}
  def start_stream(%{pool: pool, span: span} = call) do
    # The pool's manager, or the relay, emits the event of the stream's end.
    observer = if span, do: {pool.manager, span}
    recipient = %{ref: make_ref(), pool: call.name, bounded: false, observer: observer}

    with {:error, error} <- begin_stream(call, recipient) do
      error = %{error | pool: call.name}
      Numbers.failed(pool.native, call.command, error, nil)
      Telemetry.fail_call(span, error, nil)
      {:error, error}
    end
  end

  defp begin_stream(%{pool: pool} = call, recipient) do
    pool.transport.stream(pool, call.command, call.args, call.options, recipient)
  end

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
end
