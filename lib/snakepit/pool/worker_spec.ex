defmodule Snakepit.Pool.WorkerSpec do
  @moduledoc false
  # The description of a worker for the dispatcher, for local workers and remote endpoints.

  alias Snakepit.Telemetry

  # How many calls a worker may take at once by saying that they gather in batches.
  @largest_batch 65_536

  @typedoc "The commands whose calls gather in batches, and how many calls a batch has at most."
  @type batches :: [{String.t(), pos_integer}]

  @doc """
  Describes a worker. `worker` has `:id`, `:manager`, `:options`, the pool's, `:batches`, and for an endpoint `:faults`;
  `owned?` says whether this pool has started it, so that it alone sends it calls.
  """
  @spec new(map, boolean) :: map
  def new(%{id: id, options: options, manager: manager, batches: batches} = worker, owned?) do
    %{
      id: id,
      max_concurrency: options.max_concurrency,
      kill_grace: options.kill_grace,
      observer: if(Telemetry.available?(), do: manager),
      batches: batches,
      owned: owned?,
      # Of an endpoint.
      faults: Map.get(worker, :faults)
    }
  end

  @doc "Reads the batches from the health that a worker has sent, which may be anything."
  @spec batches(map) :: batches
  def batches(health) do
    with %{} = sizes <- health["batch_sizes"] do
      for {name, size} <- sizes,
          is_binary(name) and is_integer(size) and size in 2..@largest_batch,
          do: {name, size}
    else
      _unknown -> []
    end
  end
end
