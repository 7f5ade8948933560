defmodule Snakepit.AdapterFallback do
  @moduledoc """
  Calls that use another adapter's workers if gRPC is unavailable.

      Snakepit.AdapterFallback.execute_with_fallback("summarize", %{text: "..."},
        pool: MyApp.Python,
        fallback_adapter: Snakepit.Adapters.GenericPythonV2
      )

  A pool with the option `:fallback_adapter` does so automatically: if none of its workers can use
  gRPC, it starts workers of that adapter for all calls, logs it, emits `[:snakepit, :pool,
  :fallback]`, and reports it in `Snakepit.stats/1`. It keeps the fallback until it is started
  again.
  """

  alias Snakepit.{Config, Error, Pool}
  alias Snakepit.Config.Options
  alias Snakepit.Pool.Diagnostics

  @options Map.merge(Options.call(), %{pool: :pool, fallback_adapter: :adapter})

  @doc """
  Like `Snakepit.execute/3`, but if that returns `:grpc_unavailable`, the fallback's workers
  execute the command.

  Options are those of `Snakepit.execute/3` except `:retry`, and `:fallback_adapter`, by default that of the pool.
  Its workers have the pool's other options. The first call that needs them starts them, and they
  stop with the pool.
  """
  @doc since: "0.1.0"
  @spec execute_with_fallback(String.t(), map | keyword, keyword) ::
          {:ok, map} | {:error, Error.t()}
  def execute_with_fallback(command, args \\ %{}, options \\ []) do
    with :ok <- Options.check(options, @options),
         {given, options} = Keyword.split(options, [:fallback_adapter]),
         {:error, %Error{reason: :grpc_unavailable} = error} <-
           Snakepit.execute(command, args, options),
         {:ok, pool} <- fallback(Keyword.get(options, :pool, Pool), given[:fallback_adapter]) do
      if pool,
        do: Snakepit.execute(command, args, Keyword.put(options, :pool, pool)),
        else: {:error, error}
    end
  end

  # The pool of the fallback's workers, or nil without a fallback adapter. A pool of another node falls back there.
  defp fallback(pool, _adapter) when is_tuple(pool), do: {:ok, nil}

  defp fallback(name, adapter) do
    with {:ok, _pool, %{options: options}} <- Diagnostics.overview(name) do
      adapter = adapter || options.fallback_adapter

      # A remote pool has no options for workers of its own.
      if adapter && options.endpoints == nil,
        do: start(name, adapter, Config.of_processes(options)),
        else: {:ok, nil}
    end
  end

  defp start(name, adapter, options) do
    fallback = :"#{name}.Fallback"
    changed = %{name: fallback, adapter: adapter, fallback_adapter: nil}
    options = for {key, value} <- Map.merge(options, changed), value != nil, do: {key, value}
    child = Supervisor.child_spec({Pool, options}, restart: :temporary)

    case Supervisor.start_child(name, child) do
      {:ok, _pid} -> {:ok, fallback}
      {:error, {:already_started, _pid}} -> {:ok, fallback}
      {:error, %Error{} = error} -> {:error, error}
    end
  catch
    :exit, _stopped -> Diagnostics.stopped(name)
  end
end
