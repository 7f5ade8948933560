defmodule Snakepit.Config.Environment do
  @moduledoc false
  # Converts the application's environment to the options of the one pool that it defines. A key
  # has the type of its option.

  alias Snakepit.Config
  alias Snakepit.Config.Options
  alias Snakepit.Error

  @own [adapter_module: :adapter] ++
         for(
           key <-
             ~w(adapter_args fallback_adapter python root env thread_limit cpu_affinity nice
                memory_limit)a,
           do: {key, key}
         )
  @grpc [server_startup_timeout: :startup_timeout] ++
          for(key <- ~w(server transport base_port port_range)a, do: {key, key})

  @doc "Returns the options of the pool that the application starts, or nil."
  @spec default_pool() :: {:ok, keyword | nil} | {:error, Error.t()}
  def default_pool do
    :snakepit
    |> Application.get_all_env()
    |> Keyword.drop([:runtime_threads, :precompiled, :included_applications])
    |> pool()
  end

  @doc "Returns the pool's options, or nil if none is defined."
  @spec pool(keyword) :: {:ok, keyword | nil} | {:error, Error.t()}
  def pool([]), do: {:ok, nil}

  def pool(environment) do
    sections = %{pool_config: :section, grpc_config: :section}
    {given, own} = Keyword.split(environment, Map.keys(sections))

    with :ok <- check(environment, Map.merge(schema(own()), sections), "config :snakepit"),
         {:ok, pool} <- section(given, :pool_config, pool()),
         {:ok, grpc} <- section(given, :grpc_config, grpc()) do
      {:ok, renamed(own, own()) ++ Keyword.merge(pool, grpc)}
    end
  end

  @doc "Returns the keys of each level as tables, for the documentation."
  def tables do
    levels = [
      {"`config :snakepit`", own()},
      {"`pool_config`, a map or keyword list", pool()},
      {"`grpc_config`, a map or keyword list", grpc()}
    ]

    Enum.map_join(levels, "\n", fn {title, keys} ->
      rows = for {key, option} <- keys, do: "| `#{key}` | `#{inspect(option)}` |\n"
      "| #{title} | option |\n|---|---|\n#{rows}"
    end)
  end

  defp section(given, name, keys) do
    given = given |> Keyword.get(name, []) |> Enum.to_list()

    with :ok <- check(given, schema(keys), "config :snakepit, #{name}"),
         do: {:ok, renamed(given, keys)}
  end

  defp schema(keys) do
    types = Config.types()
    for {key, option} <- keys, into: %{}, do: {key, Map.fetch!(types, option)}
  end

  defp renamed(given, keys),
    do: for({key, value} <- given, do: {Keyword.fetch!(keys, key), value})

  defp check(given, schema, where) do
    with {:error, error} <- Options.check(given, schema),
         do: {:error, %{error | message: "#{where}: #{error.message}"}}
  end

  defp own, do: @own

  defp grpc,
    do: for({key, option} <- @grpc, is_map_key(Config.types(), option), do: {key, option})

  # Every other option has its own name as its key.
  defp pool do
    elsewhere = Keyword.values(@own ++ @grpc) -- [:startup_timeout]
    others = Map.keys(Config.types()) -- [:name, :size | elsewhere]
    [{:pool_size, :size} | for(option <- Enum.sort(others), do: {option, option})]
  end
end
