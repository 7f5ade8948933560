defmodule Snakepit.Config.Options do
  @moduledoc false
  # Checks options by their types. An error names the option and what it expects.

  alias Snakepit.Config.{Env, RetryPolicy, Type}
  alias Snakepit.Error

  @demand {:positive, 10_000_000}

  @max_asks {:positive, 1_000}

  # What a call has for an option that it is not given. `:demand` and `:timeout` have no such value.
  @absent %{
    timeout: nil,
    queue_timeout: :infinity,
    priority: :normal,
    session_id: nil,
    affinity: :strict,
    request_id: nil,
    traceparent: nil,
    tracestate: nil,
    metadata: [],
    on_progress: nil,
    tools: nil,
    tool_timeout: :infinity,
    max_asks: 8,
    retry: nil,
    demand: nil,
    first_chunk_timeout: :infinity,
    idle_timeout: :infinity
  }

  @doc "Returns the options of every call, with their types."
  @spec call() :: %{atom => Type.t()}
  def call do
    %{
      timeout: :timeout,
      queue_timeout: :timeout,
      priority: {:one_of, [:high, :normal, :low]},
      session_id: :session_id,
      affinity: affinity(),
      request_id: :request_id,
      traceparent: :traceparent,
      metadata: :metadata,
      on_progress: :on_progress,
      tools: :tools,
      tool_timeout: :timeout,
      max_asks: @max_asks
    }
  end

  @doc "Returns the options of a stream: those of a call, and further ones."
  @spec stream() :: %{atom => Type.t()}
  def stream do
    call()
    |> Map.delete(:on_progress)
    |> Map.merge(%{
      demand: @demand,
      first_chunk_timeout: :timeout,
      idle_timeout: :timeout
    })
  end

  @doc "Returns the type of `:affinity`, which is also an option of a remote pool."
  @spec affinity() :: Type.t()
  def affinity, do: {:one_of, [:strict, :prefer, :server]}

  @doc "Returns the options of a call that is given none, for `complete/2`."
  @spec defaults(map | keyword) :: map
  def defaults(known), do: Map.merge(@absent, Map.new(known))

  @doc """
  Returns a call's options as a map with every one of them, except `:pool`: what follows then needs no search. The
  first of those that are given twice counts.
  """
  @spec complete(keyword, map) :: map
  def complete([], defaults), do: defaults
  def complete([{:pool, _pool} | rest], defaults), do: complete(rest, defaults)

  def complete([{option, value} | rest], defaults),
    do: Map.put(complete(rest, defaults), option, value)

  @doc "Returns the type of `:demand`, which is also an option of a pool."
  @spec demand() :: Type.t()
  def demand, do: @demand

  @doc "As `demand/0`, of `:max_asks`."
  @spec max_asks() :: Type.t()
  def max_asks, do: @max_asks

  @doc "Checks options against a map of key to type."
  @spec check(keyword, map) :: :ok | {:error, Error.t()}
  def check([], _schema), do: :ok

  def check([{key, value} | rest], schema) when is_map_key(schema, key) do
    case problem(Map.fetch!(schema, key), value) do
      nil -> check(rest, schema)
      problem -> invalid("the option #{inspect(key)} #{problem}")
    end
  end

  def check([{key, _value} | _rest], schema) when is_atom(key) do
    known = schema |> Map.keys() |> Enum.sort() |> Enum.map_join(", ", &inspect/1)
    invalid("unknown option #{inspect(key)}; the options are #{known}")
  end

  # Does not show the values, which may be secrets.
  def check([{key, _value} | _rest], _schema),
    do: invalid("expected a keyword list of options, got the key #{inspect(key)}")

  def check(other, _schema) when is_map(other),
    do: invalid("expected a keyword list of options, got a map")

  def check(other, _schema),
    do: invalid("expected a keyword list of options, got: #{shown(other)}")

  defp problem(:env, value) do
    with problem when problem != nil <- Env.problem(value), do: "has #{problem}"
  end

  defp problem(:retry, value), do: RetryPolicy.problem(value)
  defp problem(:retries, value), do: RetryPolicy.problem_of_pool(value)

  defp problem(type, value) do
    case Type.check(type, value) do
      true -> nil
      expected -> "must be #{expected}, got#{got(type, value)}"
    end
  end

  # Its values may be secrets.
  defp got(type, _value) when type in [:keyword, :token], do: " something else"
  defp got(_type, value), do: ": #{shown(value)}"

  @doc "Returns a value for a message. The message stays short, even for an id of a megabyte."
  def shown(value) when is_binary(value) and byte_size(value) > 200,
    do: "#{byte_size(value)} bytes that begin with #{inspect(binary_part(value, 0, 20))}"

  def shown(value), do: inspect(value)

  defp invalid(message), do: {:error, %Error{reason: :invalid_options, message: message}}
end
