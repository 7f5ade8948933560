defmodule Snakepit.Stdio.Transport do
  @moduledoc false
  # Workers that communicate over stdin and stdout. A call acquires a lease from the dispatcher, as all calls
  # do, and passes it on to the worker's process, which answers the call.
  @behaviour Snakepit.Transport

  alias Snakepit.{Codec, Error, Native, Overdue, Progress}
  alias Snakepit.Pool.{Membership, Numbers, Worker}
  alias Snakepit.Stdio.Message

  @impl true
  def stream(_pool, command, _args, _options, recipient) do
    message =
      "the workers of #{inspect(recipient.pool)} do not support streams, because they use stdin and stdout; " <>
        "use an adapter with gRPC, such as Snakepit.Adapters.GRPCPython"

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
    started = System.monotonic_time(:microsecond)

    with {id, made} when is_integer(id) <- Codec.new_call() do
      options = Keyword.put_new(options, :request_id, made)

      call = %{
        id: id,
        command: command,
        request_id: options[:request_id],
        session_id: options[:session_id],
        caller: self(),
        progress: Keyword.has_key?(options, :on_progress)
      }

      run(pool, call, args, options, started, nil)
    else
      {:error, error} -> {:error, %{error | command: command}, nil}
    end
  end

  defp run(pool, call, args, options, started, again) do
    with {:ok, %{lease: lease, worker: worker, worker_id: worker_id} = acquired} <-
           acquire(pool.native, call, options, again) do
      placed = System.monotonic_time(:microsecond)
      left = left(options[:timeout], started)

      with {:ok, message} <-
             message(call, args, acquired, left, pool, options),
           call_of_worker = Map.merge(call, %{lease: lease, left: left, message: message}),
           {:answered, answer} <- ask(worker, call_of_worker, options) do
        answered =
          answer
          |> finish(call, worker_id, options)
          |> with_meta(call, worker_id, placed - started, placed)

        with {:ok, _result, meta} <- answered,
             do: Numbers.succeeded(pool.native, call.command, meta)

        answered
      else
        :not_started ->
          Native.release(lease)
          run(pool, call, args, options, started, System.monotonic_time(:microsecond) - started)

        {:error, error} ->
          Native.release(lease)
          {:error, %{error | command: call.command, request_id: call.request_id}, nil}
      end
    else
      {:error, error} -> {:error, error, nil}
    end
  end

  defp with_meta({{outcome, value}, {size, wait_us}}, call, worker_id, queue_us, placed) do
    {outcome, value,
     %{
       request_id: call.request_id,
       worker_id: worker_id,
       queue_us: queue_us,
       execution_us: System.monotonic_time(:microsecond) - placed,
       batch_size: size,
       batch_wait_us: wait_us
     }}
  end

  # `again`: how long ago the call was made, if it had a lease before.
  defp acquire(native, call, options, again) do
    ref = make_ref()

    with {:ok, spec} <- Codec.spec(call.command, options) do
      native
      |> Native.acquire(ref, spec, again)
      |> taken(ref, call.command, options)
      |> Codec.returned(call.command, call.request_id)
    end
  end

  defp taken({:wait, handle}, ref, command, options) do
    receive do
      {^ref, taken} -> taken
    after
      Overdue.wait(options) -> Overdue.give_up(handle, ref, command, options)
    end
  end

  defp taken(taken, _ref, _command, _options), do: taken

  defp message(call, args, acquired, left, pool, options) do
    fields =
      %{
        request_id: call.request_id,
        timeout_ms: left,
        metadata: Map.new(Codec.metadata(options)),
        takes_events: takes_events(pool, call)
      }
      |> Map.merge(Message.session(options[:session_id], acquired.generation))
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

  defp ask(worker, call, options) do
    # The answer removes the monitor.
    ref = :erlang.monitor(:process, worker, alias: :reply_demonitor)
    send(worker, {:call, ref, call})
    answer(ref, worker, call, options)
  end

  defp answer(ref, worker, call, options) do
    receive do
      {^ref, :not_started} ->
        :not_started

      {^ref, answer} ->
        {:answered, answer}

      {:DOWN, ^ref, :process, _pid, reason} ->
        down(reason)

      {:snakepit_progress, ^ref, reported} ->
        cancel = fn ->
          send(worker, {:cancel, call.id})
          Process.demonitor(ref, [:flush])
        end

        about = Map.take(call, [:command, :request_id])
        Progress.pass_on(options[:on_progress], ref, reported, about, cancel)
        answer(ref, worker, call, options)
    end
  end

  defp finish({:ok, message}, call, worker_id, _options) do
    case Message.response(message) do
      {{:error, failure}, batch} -> failed(failure, call, worker_id, batch)
      result -> result
    end
  end

  defp finish(:timeout, call, worker_id, options) do
    text =
      "the deadline of #{options[:timeout]} ms passed while the call was running; " <>
        "raise :timeout if it may take longer"

    failed({:timeout, text, %{queued: false}}, call, worker_id)
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
  defp down(reason), do: {:answered, {:crashed, Exception.format_exit(reason)}}

  # The rest of a timeout that runs from the start of the call, in ms.
  defp left(timeout, _started) when timeout in [nil, :infinity], do: nil

  defp left(timeout, started),
    do: max(timeout - div(System.monotonic_time(:microsecond) - started, 1000), 1)
end
