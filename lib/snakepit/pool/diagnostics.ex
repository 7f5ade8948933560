defmodule Snakepit.Pool.Diagnostics do
  @moduledoc false
  # Queries about a pool. They ask all workers at the same time and never wait behind calls; the
  # values of a worker that does not answer in time are nil.

  alias Snakepit.{Codec, Error, Native}
  alias Snakepit.Pool.{Numbers, Registry}

  @patience 2_000
  # It answers at once, unless the machine is overloaded.
  @manager_patience 30_000

  def health(name) do
    with {:ok, _pool, overview} <- overview(name) do
      workers = workers(overview)
      ready = Enum.count(workers, &(&1.state == :ready and &1.uptime_ms != nil))

      {:ok,
       %{
         # A worker that is being replaced and its replacement may both be ready.
         healthy: ready >= overview.options.size,
         ready: ready,
         size: overview.options.size,
         workers:
           Enum.map(workers, &Map.take(&1, [:id, :state, :error, :uptime_ms, :python_stuck_ms]))
       }}
    end
  end

  def info(name) do
    with {:ok, _pool, %{options: options} = overview} <- overview(name) do
      info =
        Enum.find_value(ask(overview), fn
          {_worker, %{info: %{} = info}} -> info
          _ -> nil
        end)

      {:ok,
       %{
         pool: name,
         adapter: options.adapter,
         size: options.size,
         max_concurrency: options.max_concurrency,
         max_requests: options.max_requests,
         max_age: options.max_age,
         max_memory: options.max_memory,
         worker_type: info["worker_type"],
         version: info["version"],
         commands: info["capabilities"],
         system: info["system_info"]
       }}
    end
  end

  def commands(name) do
    with {:ok, _pool, overview} <- overview(name) do
      infos = for {_worker, %{info: %{} = info}} <- ask(overview, :commands), do: info

      case Enum.find_value(infos, &described/1) do
        nil -> {:error, %{undescribed(overview, infos) | pool: name}}
        commands -> {:ok, Enum.sort_by(commands, & &1.name)}
      end
    end
  end

  defp described(%{"commands" => [_ | _] = commands}) do
    for %{"name" => name} = command <- commands do
      %{
        name: name,
        signature: command["signature"] || name,
        doc: present(command["doc"]),
        streams: command["streams"],
        async: command["is_async"],
        batch: batch(command["batch"]),
        parameters: parameters(command["parameters"])
      }
    end
  end

  # For a server that reports only their names.
  defp described(%{"supported_commands" => [_ | _] = names} = info) do
    for name <- names do
      doc = present((info["capabilities"] || %{})[name])

      %{
        name: name,
        signature: name,
        doc: doc,
        streams: nil,
        async: nil,
        batch: nil,
        parameters: nil
      }
    end
  end

  defp described(_info), do: nil

  defp batch(%{"size" => size} = batch),
    do: %{size: size, wait_ms: batch["wait_ms"], max_bytes: batch["max_bytes"]}

  defp batch(_none), do: nil

  defp parameters(parameters) when is_list(parameters) do
    for %{"name" => name} = parameter <- parameters do
      %{
        name: name,
        type: parameter["type"],
        required: parameter["required"],
        default: parameter["default"]
      }
    end
  end

  defp parameters(_unknown), do: nil

  defp present(text), do: if(text in [nil, ""], do: nil, else: text)

  defp undescribed(_overview, [_ | _]) do
    message =
      "the workers of the pool do not list their commands: a program over stdin and stdout does so in its answer " <>
        "to $info, a gRPC server in its answer to GetInfo (guides/adapters.md)"

    %Error{reason: :unknown_command, message: message}
  end

  defp undescribed(overview, []) do
    worker = if overview.options.endpoints, do: "endpoint", else: "worker"

    if Enum.any?(overview.workers, &(&1.state == :ready)) do
      message = "no #{worker} of the pool listed its commands within #{@patience} ms; try again"
      %Error{reason: :timeout, message: message}
    else
      message = "no #{worker} of the pool is ready; Snakepit.list_workers/1 says why"
      %Error{reason: :not_ready, message: message}
    end
  end

  def stats(name) do
    with {:ok, pool, overview} <- overview(name) do
      workers = workers(overview)
      {queued, _workers} = Native.pool_snapshot(pool.native)
      sum = fn key -> workers |> Enum.map(&(Map.fetch!(&1, key) || 0)) |> Enum.sum() end

      stats = %{
        adapter: overview.options.adapter,
        fallback: pool.fallback,
        size: overview.options.size,
        ready: Enum.count(workers, &(&1.state == :ready)),
        queued: queued,
        in_flight: sum.(:in_flight),
        sessions: Native.pool_sessions(pool.native),
        requests: sum.(:requests),
        errors: sum.(:errors),
        memory_bytes: sum.(:memory_bytes),
        restarts: overview.restarts,
        recycled: overview.recycled
      }

      {:ok, Map.merge(stats, Numbers.stats(pool.native))}
    end
  end

  def list_workers(name) do
    with {:ok, _pool, overview} <- overview(name), do: {:ok, workers(overview)}
  end

  @doc "Combines what the pool publishes with what its manager reports."
  def overview(name) do
    with {:ok, pool} <- Registry.fetch(name),
         nil <- Codec.unavailable() do
      # Before the manager is asked: a worker drains only once the manager has a replacement that is ready.
      places = places(pool)
      overview = GenServer.call(pool.manager, :overview, @manager_patience)
      {:ok, pool, Map.put(overview, :places, places)}
    else
      %Error{} = error -> {:error, %{error | pool: name}}
      {:error, error} -> {:error, error}
    end
  catch
    :exit, {:timeout, _call} ->
      message = "the pool's manager did not answer within #{@manager_patience} ms"
      {:error, %Error{reason: :timeout, pool: name, message: message}}

    :exit, _stopped ->
      stopped(name)
  end

  @doc "The error for a pool that is gone meanwhile."
  def stopped(name) do
    {:error, %Error{reason: :pool_stopped, pool: name, message: "the pool has stopped"}}
  end

  # The workers in the dispatcher: how many calls each has, and whether it drains.
  defp places(pool) do
    {_queued, places} = Native.pool_snapshot(pool.native)
    Map.new(places, fn {key, in_flight, draining} -> {key, {in_flight, draining}} end)
  end

  defp workers(%{places: places} = overview),
    do: Enum.map(ask(overview), fn {worker, answer} -> describe(worker, answer, places) end)

  # Each worker with its answer: `%{os_pid:, key:, info:}`, or nil.
  defp ask(overview, what \\ :stats) do
    overview.workers
    |> Task.async_stream(&{&1, answer(&1.pid, what)},
      max_concurrency: max(length(overview.workers), 1),
      timeout: :infinity
    )
    |> Enum.map(fn {:ok, answered} -> answered end)
  end

  defp answer(nil, _what), do: nil

  defp answer(pid, what) do
    GenServer.call(pid, {:describe, what, @patience}, @patience + 1_000)
  catch
    :exit, _gone -> nil
  end

  defp describe(worker, answer, places) do
    answer = answer || %{os_pid: nil, key: nil, info: nil}
    {in_flight, draining} = Map.get(places, answer.key, {0, false})
    stats = (answer.info || %{})["stats"] || %{}

    %{
      id: worker.id,
      slot: worker.slot,
      endpoint: worker[:endpoint],
      os_pid: answer.os_pid,
      state: if(draining, do: :draining, else: worker.state),
      error: worker.error,
      in_flight: in_flight,
      requests: stats["requests_handled"],
      errors: stats["requests_failed"],
      sessions: stats["active_sessions"],
      uptime_ms: stats["uptime_ms"],
      python_stuck_ms: stats["python_stuck_ms"],
      progress: Enum.map(stats["progress"] || [], &progress/1),
      memory_bytes: stats["memory_usage_bytes"],
      cpu_percent: stats["cpu_usage_percent"]
    }
  end

  defp progress(call) do
    progress = call["progress"] || %{}

    %{
      command: call["command"],
      request_id: call["request_id"],
      fraction: progress["fraction"],
      message: progress["message"]
    }
  end
end
