defmodule Snakepit.Pool.WorkerTable do
  @moduledoc false
  # A pool's workers, by process and by slot: which exist, which are ready, and why a slot has
  # none. The manager draws the conclusions.
  #
  # A slot has one worker, its `:current` one, or two while that is being replaced: a
  # `:replacement` starts beside it, and once that is ready, the other becomes `:retired`.

  # `failed` has the reason for each slot whose worker has failed, until the slot has a ready one.
  defstruct workers: %{}, failed: %{}

  @type slot :: non_neg_integer
  @type role :: :current | :replacement | :retired

  @typedoc "`attempt` counts the failed starts before; `key` and `ready_at` are nil until it is ready."
  @type worker :: %{
          slot: slot,
          attempt: non_neg_integer,
          role: role,
          key: non_neg_integer | nil,
          ready_at: integer | nil
        }

  @type t :: %__MODULE__{workers: %{pid => worker}, failed: %{slot => String.t()}}

  @doc "Adds a worker that is about to start."
  @spec worker(slot, non_neg_integer, role) :: worker
  def worker(slot, attempt, role),
    do: %{slot: slot, attempt: attempt, role: role, key: nil, ready_at: nil}

  @spec put(t, pid, worker) :: t
  def put(table, pid, worker), do: put_in(table.workers[pid], worker)

  @spec get(t, pid) :: worker | nil
  def get(table, pid), do: table.workers[pid]

  @doc "Removes a worker that has exited; returns nil for a process that is not in the table."
  @spec pop(t, pid) :: {worker | nil, t}
  def pop(table, pid) do
    {worker, workers} = Map.pop(table.workers, pid)
    {worker, %{table | workers: workers}}
  end

  @doc "Returns the processes of all workers."
  @spec pids(t) :: [pid]
  def pids(table), do: Map.keys(table.workers)

  @doc "Returns the process of a slot's worker with that role, or nil."
  @spec find(t, slot, role) :: pid | nil
  def find(table, slot, role) do
    Enum.find_value(of_slot(table, slot), fn {pid, worker} -> if worker.role == role, do: pid end)
  end

  @doc "Marks a worker as ready at `now`, with the dispatcher's `key`."
  @spec ready(t, pid, non_neg_integer, integer) :: t
  def ready(table, pid, key, now) do
    %{slot: slot} = worker = table.workers[pid]
    table = put(table, pid, %{worker | key: key, ready_at: now})
    %{table | failed: Map.delete(table.failed, slot)}
  end

  @doc "Makes a replacement the current worker of its slot; returns the process that this retires, or nil."
  @spec promote(t, pid) :: {pid | nil, t}
  def promote(table, pid) do
    retired = find(table, table.workers[pid].slot, :current)
    table = put_in(table.workers[pid].role, :current)
    table = if retired, do: put_in(table.workers[retired].role, :retired), else: table
    {retired, table}
  end

  @doc """
  Retires all workers of a slot that the pool does not need any more. Returns their processes, each
  with whether it was ready.
  """
  @spec retire(t, slot) :: {[{pid, boolean}], t}
  def retire(table, slot) do
    workers = of_slot(table, slot)
    retired = for {pid, worker} <- workers, do: {pid, %{worker | role: :retired}}
    table = %{table | workers: Map.merge(table.workers, Map.new(retired))}

    pids =
      for {pid, %{role: role, ready_at: at}} when role != :retired <- workers,
          do: {pid, at != nil}

    {pids, %{table | failed: Map.delete(table.failed, slot)}}
  end

  @doc "Returns the processes of a slot's retired workers."
  @spec retired(t, slot) :: [pid]
  def retired(table, slot),
    do: for({pid, %{role: :retired}} <- of_slot(table, slot), do: pid)

  @doc "Returns the slots that have a worker."
  @spec slots(t) :: [slot]
  def slots(table),
    do: table.workers |> Enum.map(fn {_pid, worker} -> worker.slot end) |> Enum.uniq()

  @spec fail(t, slot, String.t()) :: t
  def fail(table, slot, why), do: put_in(table.failed[slot], why)

  @doc "Returns why a slot has no worker, or nil."
  @spec failure(t, slot) :: String.t() | nil
  def failure(table, slot), do: table.failed[slot]

  @doc "Returns the reason for the first failed slot; nil if none has failed."
  @spec first_failure(t) :: String.t() | nil
  def first_failure(%{failed: failed}) when failed == %{}, do: nil
  def first_failure(table), do: table.failed |> Enum.min() |> elem(1)

  @spec count_failed(t) :: non_neg_integer
  def count_failed(table), do: map_size(table.failed)

  @doc "Returns the number of slots with a worker that takes calls."
  @spec count_ready(t) :: non_neg_integer
  def count_ready(table) do
    Enum.count(table.workers, fn {_pid, worker} ->
      worker.role == :current and worker.ready_at != nil
    end)
  end

  @doc "Whether a slot has exactly one worker, and it is ready: no replacement is in progress."
  @spec settled?(t, slot) :: boolean
  def settled?(table, slot) do
    case of_slot(table, slot) do
      [{_pid, %{role: :current, ready_at: ready_at}}] -> ready_at != nil
      _ -> false
    end
  end

  @doc "Returns a slot's workers for display, or one entry `{nil, :waiting, error}` if it has none."
  @spec overview(t, slot) :: [{pid | nil, atom, String.t() | nil}]
  def overview(table, slot) do
    error = failure(table, slot)

    case of_slot(table, slot) do
      [] -> [{nil, :waiting, error}]
      workers -> for {pid, worker} <- workers, do: {pid, phase(worker), error}
    end
  end

  defp phase(%{role: :retired}), do: :draining
  defp phase(%{ready_at: nil}), do: :starting
  defp phase(_worker), do: :ready

  defp of_slot(table, slot),
    do: for({_pid, %{slot: ^slot}} = worker <- table.workers, do: worker)
end
