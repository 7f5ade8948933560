defmodule Snakepit.Config.RetryPolicy do
  @moduledoc false
  # The option `:retry` of a call, and that of a pool, which maps commands to such options.

  alias Snakepit.Config.Type

  @reasons [
    :command_error,
    :grpc_unavailable,
    :node_unavailable,
    :not_ready,
    :pool_saturated,
    :pool_stopped,
    :python_error,
    :queue_timeout,
    :rpc_error,
    :session_lost,
    :timeout,
    :worker_crashed,
    :worker_start_failed
  ]
  @max 3
  @backoff {50, 1_000}
  @limit {:positive, 1_000_000}
  @example "[on: [:worker_crashed], max: 3, backoff: {50, 1_000}]"

  @type t :: %{on: [atom], max: pos_integer, backoff: {pos_integer, pos_integer}}

  @doc "The reasons after which a call can be repeated."
  def reasons, do: @reasons

  @doc "Converts a checked option of a call; nil for `false`, which means no retries."
  @spec new(keyword | false) :: t | nil
  def new(false), do: nil
  def new(given), do: Map.merge(%{max: @max, backoff: @backoff}, Map.new(given))

  @doc "Returns what is wrong with the option of a call; nil if nothing is."
  @spec problem(term) :: String.t() | nil
  def problem(false), do: nil

  def problem([_ | _] = given) do
    cond do
      not Keyword.keyword?(given) -> not_a_list(given)
      given[:on] == nil -> "has no :on, the list of reasons to repeat a call for: #{@example}"
      true -> Enum.find_value(given, &wrong/1)
    end
  end

  def problem(other), do: not_a_list(other)

  @doc "As `problem/1`, for the option of a pool."
  @spec problem_of_pool(term) :: String.t() | nil
  def problem_of_pool(given) when is_map(given) and not is_struct(given) do
    Enum.find_value(given, fn {command, policy} ->
      cond do
        not (is_binary(command) and String.valid?(command)) ->
          "has the name #{inspect(command)}; expected a command, a string"

        problem = problem(policy) ->
          "for the command #{inspect(command)} #{problem}"

        true ->
          nil
      end
    end)
  end

  def problem_of_pool(other) do
    "must be a map of commands to retries, such as %{\"fetch\" => #{@example}}, got: #{inspect(other)}"
  end

  defp not_a_list(given),
    do: "must be false or a list such as #{@example}, got: #{inspect(given)}"

  defp wrong({:on, [_ | _] = reasons}) do
    if List.improper?(reasons),
      do: wrong({:on, :improper}),
      else: Enum.find_value(reasons, &(&1 not in @reasons && unknown(&1)))
  end

  defp wrong({:on, other}),
    do: "has an :on that is not a list of reasons, got: #{inspect(other)}; #{known()}"

  defp wrong({:max, max}), do: typed(:max, @limit, max)
  defp wrong({:backoff, backoff}), do: typed(:backoff, :range, backoff)

  defp wrong({key, _value}),
    do: "has the unknown key #{inspect(key)}; the keys are :on, :max and :backoff"

  defp typed(key, type, value) do
    case Type.check(type, value) do
      true -> nil
      expected -> "has a #{inspect(key)} that must be #{expected}, got: #{inspect(value)}"
    end
  end

  defp unknown(reason), do: "cannot repeat a call after #{inspect(reason)}; #{known()}"
  defp known, do: "the reasons are #{Enum.map_join(@reasons, ", ", &inspect/1)}"
end
