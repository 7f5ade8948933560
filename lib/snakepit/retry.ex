defmodule Snakepit.Retry do
  @moduledoc false
  # Decides whether a call that has failed is made again, and when. All attempts share the call's one deadline.
  # Nothing waits here: the calling process does, by itself.

  alias Snakepit.{Error, Telemetry, Transport, TwoWay}
  alias Snakepit.Config.RetryPolicy

  # For a call that has certainly not started, which is repeated without being asked for.
  @not_started %{max: :infinity, backoff: {5, 1_000}}
  # For a call to the pool on any node which has not started on the one that was chosen.
  @elsewhere %{max: 10, backoff: {5, 1_000}}

  defstruct [:policy, :timeout, :started, attempt: 1]

  @type t :: %__MODULE__{}

  @doc """
  Returns the retries of a call that `started` at this monotonic time. `pool` is that of
  `Snakepit.Pool.Registry.fetch/1`; the options are complete.
  """
  @spec new(map, String.t(), map, integer) :: t
  def new(pool, command, %{timeout: timeout} = options, started) do
    %__MODULE__{
      policy: policy(pool.retry, command, options),
      timeout: timeout,
      started: started
    }
  end

  defp policy(of_pool, _command, %{retry: nil}) when of_pool == %{}, do: nil

  # The state of a session may depend on what an attempt has done.
  defp policy(_of_pool, _command, %{session_id: id, affinity: affinity})
       when id != nil and affinity != :prefer,
       do: nil

  defp policy(of_pool, command, %{retry: given}) do
    RetryPolicy.new(if(given == nil, do: Map.get(of_pool, command, false), else: given))
  end

  @doc """
  Takes a call that has failed. Returns that it is to be made again after `wait` ms, renewed by `renew/1`; or its error.
  """
  @spec next(Transport.call(), Error.t()) ::
          {:again, wait :: non_neg_integer, Transport.call()} | {:error, Error.t()}
  def next(%{retry: retry} = call, error) do
    error = %{error | pool: call.name}

    with false <- fell_back?(call, error),
         %{} = policy <- policy_for(call, error),
         true <- retry.attempt <= policy.max,
         wait = wait(policy.backoff, retry.attempt),
         true <- wait < left(retry) do
      span = Telemetry.retry_call(call.span, error, retry.attempt, wait)
      {:again, wait, %{call | span: span, retry: %{retry | attempt: retry.attempt + 1}}}
    else
      true -> {:again, 0, call}
      _ -> {:error, explained(error, retry)}
    end
  end

  @doc "Gives a call the pool that has its name now, and the rest of its timeout."
  @spec renew(Transport.call()) :: {:ok, Transport.call()} | {:error, Error.t()}
  def renew(call) do
    with {:ok, name, pool} <- call.target.fetch.() do
      # The first pool may have been on another node, with timeouts of its own.
      options =
        Map.merge(pool.call_options, call.options, fn _option, of_pool, given ->
          if given == nil, do: of_pool, else: given
        end)

      span = Telemetry.move_call(call.span, name)
      {:ok, %{call | name: name, pool: pool, options: with_rest(options, call.retry), span: span}}
    end
  end

  defp with_rest(options, retry) do
    case left(retry) do
      :infinity -> options
      left -> %{options | timeout: max(left, 1)}
    end
  end

  # The pool has got other workers while the call waited for the first ones.
  defp fell_back?(%{target: target, pool: pool}, %{reason: :grpc_unavailable}) do
    case target.fetch.() do
      {:ok, _name, %{fallback: fallback}} -> fallback != pool.fallback
      _ -> false
    end
  end

  defp fell_back?(_call, _error), do: false

  defp policy_for(%{target: target, pool: pool, args: args, retry: %{policy: policy}}, error) do
    cond do
      target.elsewhere and elsewhere?(error) -> @elsewhere
      # The other node has repeated the call after every other error.
      is_map_key(pool, :node) and error.reason != :node_unavailable -> nil
      not is_map_key(pool, :node) and match?(%{started: false}, error.details) -> @not_started
      # What an input had is gone.
      policy != nil and error.reason in policy.on -> if(not TwoWay.inputs?(args), do: policy)
      true -> nil
    end
  end

  # Another node's pool can still run it.
  defp elsewhere?(%{reason: :pool_stopped}), do: true
  defp elsewhere?(%{reason: :node_unavailable, details: %{started: false}}), do: true
  defp elsewhere?(_error), do: false

  # Between half of the step and all of it: calls that failed together are not repeated together. The generator of
  # `:rand` would change the state that the calling process may have seeded.
  defp wait({first, longest}, attempt) do
    step = min(first * Integer.pow(2, min(attempt - 1, 30)), longest)
    half = div(step, 2)
    step - :erlang.phash2(make_ref(), half + 1)
  end

  defp explained(error, %{attempt: 1}), do: error

  defp explained(error, %{attempt: attempt} = retry) do
    details = Map.put(error.details, :attempts, attempt)
    %{error | message: message(error, retry), details: details}
  end

  # The last attempt had only the rest of the timeout.
  defp message(%{reason: :timeout} = error, retry) do
    if left(retry) > 0,
      do: error.message,
      else: "the deadline of #{retry.timeout} ms passed during attempt #{retry.attempt}"
  end

  defp message(error, _retry), do: error.message

  # How much of the timeout is left, in ms. A pool on another node has one of its own, which is not known here. An atom is
  # greater than a number.
  defp left(%{timeout: timeout}) when timeout in [:infinity, nil], do: :infinity

  defp left(%{timeout: timeout, started: started}) do
    passed = System.monotonic_time() - started
    timeout - System.convert_time_unit(passed, :native, :millisecond)
  end
end
