defmodule Snakepit.Pool.WorkerSupervisor do
  @moduledoc false
  # Supervises a pool's workers, and stops them together when the pool stops.
  use DynamicSupervisor

  def start_link(_options), do: DynamicSupervisor.start_link(__MODULE__, [])

  @impl true
  def init(_), do: DynamicSupervisor.init(strategy: :one_for_one)

  @doc """
  Starts a worker of that transport, which waits for the message `:start`. It is not restarted
  here: the manager decides when to try again.
  """
  def start_worker(supervisor, transport, worker) do
    changes = %{id: worker.id, shutdown: transport.shutdown(worker.options)}

    DynamicSupervisor.start_child(supervisor, worker |> transport.worker() |> Map.merge(changes))
  end
end
