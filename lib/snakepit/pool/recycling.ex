defmodule Snakepit.Pool.Recycling do
  @moduledoc false
  # The workers of a pool that are to be replaced because they have reached a limit of their lives,
  # and those whose replacements are starting: at most a quarter of the pool at once. The manager
  # replaces them.

  alias Snakepit.Telemetry

  require Logger

  # `wanted` has the requests in order, `starting` those whose replacements start, by slot.
  defstruct wanted: [], starting: %{}, recycled: 0

  @typedoc "A worker, and which limit it has reached. `failed` counts the replacements that did not start."
  @type request :: %{
          pid: pid,
          slot: non_neg_integer,
          limit: atom,
          why: String.t(),
          since: integer,
          failed: non_neg_integer
        }

  @type t :: %__MODULE__{
          wanted: [request],
          starting: %{non_neg_integer => request},
          recycled: non_neg_integer
        }

  @spec want(t, request) :: t
  def want(recycling, request), do: %{recycling | wanted: recycling.wanted ++ [request]}

  @doc "Removes the requests for which `keep?` is false: of workers that are gone or leaving."
  @spec filter(t, (request -> boolean)) :: t
  def filter(recycling, keep?),
    do: %{recycling | wanted: Enum.filter(recycling.wanted, keep?)}

  @doc "Begins the first request that `possible?` allows in a pool of that size; nil if there is none."
  @spec next(t, pos_integer, (request -> boolean)) :: {request, t} | nil
  def next(recycling, size, possible?) do
    if map_size(recycling.starting) < max(div(size, 4), 1) do
      with %{slot: slot} = request <- Enum.find(recycling.wanted, possible?) do
        wanted = List.delete(recycling.wanted, request)
        starting = Map.put(recycling.starting, slot, request)
        {request, %{recycling | wanted: wanted, starting: starting}}
      end
    end
  end

  @doc "Whether no replacement is starting."
  @spec idle?(t) :: boolean
  def idle?(recycling), do: recycling.starting == %{}

  @doc "The replacement in a slot does not start any more, if one did. Returns its request, or nil."
  @spec ended(t, non_neg_integer) :: {request | nil, t}
  def ended(recycling, slot) do
    {request, starting} = Map.pop(recycling.starting, slot)
    {request, %{recycling | starting: starting}}
  end

  @doc "Reports that a worker was replaced."
  @spec done(t, request, atom, String.t()) :: t
  def done(recycling, request, pool, worker_id) do
    Logger.info("worker #{worker_id} is recycled: #{request.why}")
    measurements = %{age: System.monotonic_time() - request.since}
    metadata = %{pool: pool, worker_id: worker_id, reason: request.limit, why: request.why}
    Telemetry.worker(:recycled, measurements, metadata)
    %{recycling | recycled: recycling.recycled + 1}
  end
end
