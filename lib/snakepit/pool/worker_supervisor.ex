defmodule Snakepit.Pool.WorkerSupervisor do
  @moduledoc false
  # Holds a pool's workers, and stops them together when the pool stops.
  use DynamicSupervisor

  alias Snakepit.Pool.Membership

  def start_link(_options), do: DynamicSupervisor.start_link(__MODULE__, [])

  @impl true
  def init(_), do: DynamicSupervisor.init(strategy: :one_for_one)

  @doc """
  Starts a worker of that kind, which does not begin before it is told `:start`. It is not restarted
  here: the manager knows when to try again.
  """
  def start_worker(supervisor, module, worker) do
    shutdown = Membership.time_to_stop(worker.options)

    DynamicSupervisor.start_child(
      supervisor,
      worker |> module.child_spec() |> Map.merge(%{id: worker.id, shutdown: shutdown})
    )
  end
end
