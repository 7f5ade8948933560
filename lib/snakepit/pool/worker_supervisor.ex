defmodule Snakepit.Pool.WorkerSupervisor do
  @moduledoc false
  # Holds a pool's workers, and stops them together when the pool stops.
  use DynamicSupervisor

  alias Snakepit.GRPCWorker

  def start_link(_options), do: DynamicSupervisor.start_link(__MODULE__, [])

  @impl true
  def init(_), do: DynamicSupervisor.init(strategy: :one_for_one)

  @doc "Starts a worker. It is not restarted here: the manager knows when to try again."
  def start_worker(supervisor, worker) do
    child = GRPCWorker.child_spec(worker)
    shutdown = GRPCWorker.shutdown(worker.options)

    DynamicSupervisor.start_child(
      supervisor,
      %{child | id: worker.id} |> Map.put(:shutdown, shutdown)
    )
  end
end
