defmodule Snakepit.Stdio.Transport do
  @moduledoc false
  # Workers that communicate over stdin and stdout. A call acquires a lease from the dispatcher, as all calls
  # do, and passes it on to the worker's process, which answers the call.
  @behaviour Snakepit.Transport

  # How long to wait for the end of the tools, in ms.
  @patience 1_000

  @grpc "use an adapter with gRPC, such as Snakepit.Adapters.GRPCPython"

  alias Snakepit.{Codec, Error, Native, Overdue, Progress}
  alias Snakepit.Error.Cause
  alias Snakepit.Pool.{Membership, Numbers, Worker}
  alias Snakepit.Stdio.Message
  alias Snakepit.TwoWay
  alias Snakepit.TwoWay.Asks

  @impl true
  def stream(_pool, command, _args, _options, recipient) do
    message =
      "the workers of #{inspect(recipient.pool)} do not support streams, because they use stdin and stdout; #{@grpc}"

    with :ok <- Codec.check_command(command),
         do:
           {:error, %Error{reason: :streaming_not_supported, command: command, message: message}}
  end

  @impl true
  def request_event, do: nil

  @impl true
  def worker(worker), do: Worker.child_spec(worker)

  @impl true
  defdelegate shutdown(options), to: Membership, as: :time_to_stop

  @impl true
  def check_replacement(_options), do: :ok

  @impl true
  def run(pool, command, args, options) do
    ref = make_ref()

    # As a call from outside: in a function of its own module the compiler would forget the reference's position in
    # the mailbox, by which a receive skips the messages that were there before.
    await(ref, __MODULE__.start(pool, ref, command, args, options))
  end

  defp await(_ref, {:done, result}), do: result

  defp await(ref, {:wait, pending}) do
    receive do
      {^ref, message} -> await(ref, received(pending, message))
      {^ref, _monitor, :process, _pid, reason} -> await(ref, received(pending, {:down, reason}))
      {:snakepit_progress, ^ref, reported} -> await(ref, progress(ref, reported, pending))
    after
      Overdue.left(pending.until) -> await(ref, give_up(pending, ref, pending.options))
    end
  end

  defp progress(ref, reported, %{call: call} = pending) do
    about = Map.take(call, [:command, :request_id])
    cancel = fn -> cancel(pending, ref) end
    Progress.pass_on(pending.options.on_progress, ref, reported, about, cancel)
    {:wait, pending}
  end

  @impl true
  def start(pool, tag, command, args, options) do
    started = System.monotonic_time(:microsecond)

    with {id, made} when is_integer(id) <- Codec.new_call(),
         :ok <- TwoWay.refuse_inputs(args, "workers over stdin and stdout do not take: #{@grpc}"),
         {:ok, asks} <- Asks.start(options.tools) do
      options = %{options | request_id: options.request_id || made}

      call = %{
        id: id,
        command: command,
        request_id: options.request_id,
        session_id: options.session_id,
        caller: self(),
        tag: tag,
        progress: options.on_progress != nil,
        asks: asks,
        max_asks: options.max_asks
      }

      pending = %{pool: pool, call: call, args: args, options: options, started: started}
      pending |> acquire(nil) |> ended(call)
    else
      {:error, error} ->
        {:done, {:error, %{error | command: command, request_id: options.request_id}, nil}}
    end
  end

  @impl true
  # The first message is the lease, or the reason why there is none.
  def received(%{handle: handle} = pending, taken) when handle != nil,
    do: taken |> taken(pending) |> ended(pending.call)

  def received(pending, message) do
    # It is the alias to which reports and the answer are sent, too.
    :erlang.demonitor(pending.monitor, [:flush])
    message |> answer() |> answered(pending) |> ended(pending.call)
  end

  @impl true
  def give_up(%{handle: handle, call: call} = pending, tag, options),
    do: received(pending, Overdue.give_up(handle, tag, call.command, options))

  # No tool of the call runs any more.
  defp ended({:done, result}, %{asks: asks}) do
    if asks, do: Asks.stop(asks, @patience)
    {:done, result}
  end

  defp ended(waits, _call), do: waits

  defp answered(answer, pending) do
    case answer do
      :not_started ->
        Native.give_back(pending.lease)
        acquire(pending, System.monotonic_time(:microsecond) - pending.started)

      :no_tools ->
        Native.give_back(pending.lease)
        %{call: call} = pending

        message =
          "the worker takes no tools; the call has not run: use workers of this version of Snakepit"

        error =
          Codec.error({:streaming_not_supported, message, %{}}, call.command, call.request_id)

        {:done, {:error, error, nil}}

      answer ->
        %{call: call, pool: pool} = pending

        answered =
          answer |> finish(call, pending.worker_id, pending.options) |> with_meta(pending)

        with {:ok, _result, meta} <- answered,
             do: Numbers.succeeded(pool.native, call.command, meta)

        {:done, answered}
    end
  end

  defp answer({:down, reason}), do: down(reason)
  defp answer(answer), do: answer

  @impl true
  def cancel(%{handle: handle} = pending, tag) when handle != nil do
    # After the NIF has returned, nothing more is sent.
    Native.cancel(handle)
    ended({:done, nil}, pending.call)

    receive do
      {^tag, {:ok, %{lease: lease}}} -> Native.give_back(lease)
      {^tag, _refused} -> :ok
    after
      0 -> :ok
    end
  end

  def cancel(%{monitor: monitor} = pending, tag) do
    send(pending.worker, {:cancel, pending.call.id})
    :erlang.demonitor(monitor, [:flush])
    ended({:done, nil}, pending.call)

    receive do
      {^tag, _answer} -> :ok
    after
      0 -> :ok
    end
  end

  # `again`: how long ago the call was made, if it had a lease before.
  defp acquire(%{call: call, options: options} = pending, again) do
    with {:ok, spec} <- Codec.spec(call.command, options) do
      pending.pool.native |> Native.acquire(call.tag, spec, again) |> taken(pending)
    else
      {:error, error} -> {:done, {:error, error, nil}}
    end
  end

  # Until it has a lease the native library enforces its deadline, then the worker's process.
  defp taken({:wait, handle}, %{options: options} = pending),
    do: {:wait, Map.merge(pending, %{handle: handle, until: Overdue.until(options)})}

  defp taken({:ok, acquired}, %{call: call, options: options} = pending) do
    left = left(options.timeout, pending.started)
    placed = System.monotonic_time(:microsecond)

    case message(call, pending.args, acquired, left, pending.pool, options) do
      {:ok, message} ->
        holding = if call.asks, do: Native.holding(acquired.lease, call.id)
        own = %{left: left, message: message, holding: holding}
        monitor = ask(acquired, Map.merge(call, own))
        of_worker = Map.take(acquired, [:lease, :worker, :worker_id])
        placement = %{handle: nil, until: :infinity, monitor: monitor, placed: placed}
        taken = Map.merge(of_worker, placement)
        {:wait, Map.merge(pending, taken)}

      {:error, error} ->
        Native.give_back(acquired.lease)
        {:done, {:error, %{error | command: call.command, request_id: call.request_id}, nil}}
    end
  end

  defp taken(failed, %{call: call}) do
    {:error, error} = Codec.returned(failed, call.command, call.request_id)
    {:done, {:error, error, nil}}
  end

  defp with_meta({{outcome, value}, {size, wait_us}}, %{call: call, placed: placed} = pending) do
    {outcome, value,
     %{
       request_id: call.request_id,
       worker_id: pending.worker_id,
       queue_us: placed - pending.started,
       execution_us: System.monotonic_time(:microsecond) - placed,
       batch_size: size,
       batch_wait_us: wait_us
     }}
  end

  defp message(call, args, acquired, left, pool, options) do
    fields =
      %{
        request_id: call.request_id,
        timeout_ms: left,
        metadata: Map.new(Codec.metadata(options)),
        takes_events: takes_events(pool, call),
        tools: if(options.tools, do: Map.keys(options.tools.functions)),
        max_asks: if(options.tools, do: options.max_asks)
      }
      |> Map.merge(Message.session(options.session_id, acquired.generation))
      |> Map.reject(fn {_name, value} -> value in [nil, %{}, 0] end)

    with {:ok, message} <- Message.request(call.id, call.command, args, fields) do
      check_size(message, pool.options.max_message_size)
    end
  end

  # 1 stands for telemetry, 2 for progress.
  defp takes_events(pool, call),
    do: if(pool.telemetry, do: 1, else: 0) + if(call.progress, do: 2, else: 0)

  defp check_size(message, limit) when byte_size(message) <= limit, do: {:ok, message}

  defp check_size(message, limit) do
    size = byte_size(message)

    text =
      "the request has #{size} bytes, and the limit is #{limit}; raise :max_message_size to send it"

    {:error,
     %Error{reason: :message_too_large, message: text, details: %{size: size, limit: limit}}}
  end

  defp ask(%{worker: worker, lease: lease}, call) do
    ref = :erlang.monitor(:process, worker, alias: :demonitor, tag: call.tag)
    send(worker, {:call, ref, Map.put(call, :lease, lease)})
    ref
  end

  defp finish({:ok, message}, call, worker_id, _options) do
    case Message.response(message) do
      {{:error, failure}, batch} -> failed(failure, call, worker_id, batch)
      result -> result
    end
  end

  defp finish(:timeout, call, worker_id, options) do
    text =
      "the deadline of #{options.timeout} ms passed while the call was running; " <>
        "raise :timeout if it may take longer"

    failed({:timeout, text, %{queued: false}}, call, worker_id)
  end

  defp finish(:no_answers, call, worker_id, _options) do
    failed({:cancelled, "the process that ran the call's tools was killed", %{}}, call, worker_id)
  end

  defp finish({:crashed, why}, call, worker_id, _options) do
    text = "the worker died while it was running the call, and is replaced: #{why}"
    failed({:worker_crashed, text, %{}}, call, worker_id)
  end

  defp failed(failure, call, worker_id, batch \\ {0, 0}) do
    {{:error, Codec.error(failure, call.command, call.request_id, worker_id)}, batch}
  end

  # A worker that stops in an orderly way has answered every call that it has taken.
  defp down(reason) when reason in [:noproc, :normal, :shutdown], do: :not_started
  defp down({:shutdown, _why}), do: :not_started
  defp down(reason), do: {:crashed, Cause.exited(reason)}

  # The rest of a timeout that runs from the start of the call, in ms.
  defp left(:infinity, _started), do: nil

  defp left(timeout, started),
    do: max(timeout - div(System.monotonic_time(:microsecond) - started, 1000), 1)
end
