defmodule Snakepit.Pool.Registry do
  @moduledoc false
  # The pools of this BEAM by name, with what a call needs to know about each: read by every call,
  # written by the pools' managers.

  alias Snakepit.Config.{Options, Type}
  alias Snakepit.{Codec, Error, Native, Telemetry, Tracing}

  # The options that may contain secrets, which no call needs.
  @hidden [:env, :adapter_args, :token, :tls]

  @doc "Returns what a call needs to know about a pool, or why it cannot be called."
  @spec fetch(term) :: {:ok, map} | {:error, Error.t()}
  def fetch(name) when not is_atom(name) or name in [nil, true, false] do
    message = "expected #{Type.expected(:pool)}, got: #{Options.shown(name)}"
    {:error, %Error{reason: :invalid_options, message: message}}
  end

  def fetch(name) do
    case entry(name) do
      nil ->
        message =
          "there is no pool #{inspect(name)}; start one with {Snakepit.Pool, name: #{inspect(name)}} " <>
            "under a supervisor, or with `config :snakepit, pool_config: %{}`"

        {:error, %Error{reason: :pool_stopped, pool: name, message: message}}

      %{error: nil} = pool ->
        {:ok, pool}

      %{error: error} ->
        {:error, %{error | pool: name}}
    end
  end

  @doc "How many calls of a command a pool can run at once."
  @spec capacity(term, term) :: {:ok, pos_integer} | {:error, Error.t()}
  def capacity(name, command) do
    with {:ok, %{native: native, options: %{size: size, max_concurrency: each}}} <- fetch(name),
         do: {:ok, size * each * Codec.batch_size(native, command)}
  end

  @doc """
  Gives the calling process, a pool's manager, the pool's name. Only one manager at a time
  publishes a pool of that name and removes it: if a supervisor was killed, its manager may still
  be about to end when the next one starts, which waits for it.
  """
  @spec claim(atom) :: true
  def claim(name) do
    Process.register(self(), manager_name(name))
  rescue
    ArgumentError ->
      if earlier = Process.whereis(manager_name(name)) do
        monitor = Process.monitor(earlier)
        receive do: ({:DOWN, ^monitor, :process, ^earlier, _reason} -> :ok)
      end

      claim(name)
  end

  @doc """
  Publishes the pool of the calling process, its manager: its options, and `:native`, `:error`, `:fallback`, `:transport`
  and `:command_policy`. With an `:error` its calls return that error.
  """
  @spec publish(map, map) :: :ok
  def publish(options, facts) do
    put(
      options.name,
      Map.merge(facts, %{
        options: Map.drop(options, @hidden),
        retry: options.retry,
        call_options:
          options
          |> Map.take([
            :timeout,
            :queue_timeout,
            :demand,
            :affinity,
            :tools,
            :tool_timeout,
            :max_asks
          ])
          |> Options.defaults(),
        manager: self(),
        telemetry: Telemetry.available?(),
        tracing: Tracing.available?()
      })
    )
  end

  @doc "Publishes that a pool has another number of workers."
  @spec resized(atom, pos_integer) :: :ok
  def resized(name, size) do
    {:ok, pool} = fetch(name)
    put(name, put_in(pool.options.size, size))
  end

  defp put(name, pool), do: :persistent_term.put({__MODULE__, name}, pool)

  @doc """
  The pool's manager ends for this reason: every caller that finds the pool, or has found it, learns that. A killed
  pool stays published, as does one whose manager was killed: it is known to have existed.
  """
  @spec stopped(atom, reference | nil, term) :: any
  def stopped(name, native, reason) do
    if native, do: Native.pool_close(native)
    if orderly?(reason), do: :persistent_term.erase({__MODULE__, name})
  end

  defp orderly?(reason) when reason in [:normal, :shutdown], do: true
  defp orderly?({:shutdown, _}), do: true
  defp orderly?(_reason), do: false

  @doc "Whether a pool of that name was published and not removed, as after it was killed."
  @spec published?(atom) :: boolean
  def published?(name), do: entry(name) != nil

  @doc "The names of all pools, sorted. Looks at each persistent term of the BEAM: not for a call's path."
  @spec names() :: [atom]
  def names do
    names = for {{__MODULE__, name}, _pool} <- :persistent_term.get(), do: name
    Enum.sort_by(names, &inspect/1)
  end

  defp entry(name), do: :persistent_term.get({__MODULE__, name}, nil)

  @doc "The name of the process of a pool's manager. No module has such a name."
  @spec manager_name(atom) :: atom
  def manager_name(pool), do: :"#{inspect(pool)} (manager)"
end
