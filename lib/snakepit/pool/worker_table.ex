defmodule Snakepit.Pool.WorkerTable do
  @moduledoc false
  # A pool's workers, by their processes and by the slots that they have: which there are, which are ready,
  # and why a slot has none. The manager decides what follows from that.
  #
  # A slot has one worker, its `:current` one, or two while that is replaced: a `:replacement` starts beside
  # it, and once that is ready the other is `:retired`.

  # `failed` has the reason of each slot whose worker has failed, until the slot has a ready one.
  defstruct workers: %{}, failed: %{}

  @type slot :: pos_integer
  @type role :: :current | :replacement | :retired

  @typedoc "`attempt` counts the starts that failed before; `key` and `ready_at` are nil until it is ready."
  @type worker :: %{
          slot: slot,
          attempt: non_neg_integer,
          role: role,
          key: non_neg_integer | nil,
          ready_at: integer | nil
        }

  @type t :: %__MODULE__{workers: %{pid => worker}, failed: %{slot => String.t()}}

  @doc "A worker that is about to start."
  @spec worker(slot, non_neg_integer, role) :: worker
  def worker(slot, attempt, role),
    do: %{slot: slot, attempt: attempt, role: role, key: nil, ready_at: nil}

  @spec put(t, pid, worker) :: t
  def put(table, pid, worker), do: put_in(table.workers[pid], worker)

  @spec get(t, pid) :: worker | nil
  def get(table, pid), do: table.workers[pid]

  @doc "Takes out a worker that has ended; nil for a process that is none of the pool's any more."
  @spec pop(t, pid) :: {worker | nil, t}
  def pop(table, pid) do
    {worker, workers} = Map.pop(table.workers, pid)
    {worker, %{table | workers: workers}}
  end

  @doc "The processes of all of its workers."
  @spec pids(t) :: [pid]
  def pids(table), do: Map.keys(table.workers)

  @doc "The process of a slot's worker of that role, or nil."
  @spec find(t, slot, role) :: pid | nil
  def find(table, slot, role) do
    Enum.find_value(of_slot(table, slot), fn {pid, worker} -> if worker.role == role, do: pid end)
  end

  @doc "Notes that a worker is ready at `now`, under the dispatcher's `key`."
  @spec ready(t, pid, non_neg_integer, integer) :: t
  def ready(table, pid, key, now) do
    %{slot: slot} = worker = table.workers[pid]
    table = put(table, pid, %{worker | key: key, ready_at: now})
    %{table | failed: Map.delete(table.failed, slot)}
  end

  @doc "Gives a replacement its slot, and returns the process that is retired by that, or nil."
  @spec promote(t, pid) :: {pid | nil, t}
  def promote(table, pid) do
    retired = find(table, table.workers[pid].slot, :current)
    table = put_in(table.workers[pid].role, :current)
    table = if retired, do: put_in(table.workers[retired].role, :retired), else: table
    {retired, table}
  end

  @spec fail(t, slot, String.t()) :: t
  def fail(table, slot, why), do: put_in(table.failed[slot], why)

  @doc "Why a slot has no worker, or nil."
  @spec failure(t, slot) :: String.t() | nil
  def failure(table, slot), do: table.failed[slot]

  @doc "Why the first of the slots that have failed has; nil where none has."
  @spec first_failure(t) :: String.t() | nil
  def first_failure(%{failed: failed}) when failed == %{}, do: nil
  def first_failure(table), do: table.failed |> Enum.min() |> elem(1)

  @spec count_failed(t) :: non_neg_integer
  def count_failed(table), do: map_size(table.failed)

  @doc "How many slots have a worker that takes calls."
  @spec count_ready(t) :: non_neg_integer
  def count_ready(table) do
    Enum.count(table.workers, fn {_pid, worker} ->
      worker.role == :current and worker.ready_at != nil
    end)
  end

  @doc "Whether a slot has one worker, and that is ready: nothing of it is being replaced."
  @spec settled?(t, slot) :: boolean
  def settled?(table, slot) do
    case of_slot(table, slot) do
      [{_pid, %{role: :current, ready_at: ready_at}}] -> ready_at != nil
      _ -> false
    end
  end

  @doc "A slot's workers as they are shown, one of `{nil, :waiting, error}` where it has none."
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
