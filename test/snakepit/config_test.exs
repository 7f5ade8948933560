defmodule Snakepit.ConfigTest do
  use ExUnit.Case, async: true

  alias Snakepit.Adapters.{GenericPythonV2, GRPCPython}
  alias Snakepit.Config
  alias Snakepit.Config.{Environment, RuntimeThreads}
  alias Snakepit.Error

  test "without an environment there is no pool" do
    assert Environment.pool([]) == {:ok, nil}
  end

  test "each key is an option of the pool" do
    environment = [
      adapter_module: GRPCPython,
      adapter_args: [class: "a:B"],
      fallback_adapter: GenericPythonV2,
      python: "python3",
      env: %{"A" => "b"},
      thread_limit: 2,
      pool_config: %{
        pool_size: 3,
        max_concurrency: 2,
        max_queue: 7,
        timeout: :infinity,
        await_ready: 5
      },
      grpc_config: [transport: :tcp, base_port: 50_051, port_range: 10, server_startup_timeout: 9]
    ]

    assert {:ok, options} = Environment.pool(environment)

    assert {:ok, %{adapter: GRPCPython, fallback_adapter: GenericPythonV2} = pool} =
             Config.pool(options)

    assert %{adapter_args: [class: "a:B"], python: "python3", await_ready: 5} = pool
    assert Map.new(pool.env) == %{"A" => "b"}
    assert %{size: 3, max_concurrency: 2, max_queue: 7, timeout: :infinity} = pool
    assert %{transport: :tcp, base_port: 50_051, port_range: 10, startup_timeout: 9} = pool
    assert %{thread_limit: 2, queue_timeout: 5_000} = pool
  end

  test "the number of the native library's threads is checked like an option" do
    # Loaded code has already read it.
    Code.ensure_loaded!(Snakepit.Native)
    on_exit(fn -> Application.delete_env(:snakepit, :runtime_threads) end)

    for wrong <- [0, -1, "4", nil, 4.0, :auto, 2 ** 64] do
      Application.put_env(:snakepit, :runtime_threads, wrong)
      assert {:error, %Error{message: message}} = RuntimeThreads.get()
      assert message =~ ~r/^config :snakepit: .*:runtime_threads.* 1 to 1024/
      assert message =~ inspect(wrong)
    end

    Application.put_env(:snakepit, :runtime_threads, 3)
    assert RuntimeThreads.get() == {:ok, 3}
  end

  test "every option but the name has its key" do
    options = Map.keys(Config.types()) -- [:name]
    tables = Environment.tables()
    for option <- options, do: assert(tables =~ "| `#{inspect(option)}` |")
  end

  test "variables are strings or nil, and the last one of a name counts" do
    for env <- [
          %{"A" => "", "B" => nil, "C" => <<255>>, <<255>> => "ü="},
          [{"A", "x"}, {"A", ""}, {"B", nil}, {"C", <<255>>}, {<<255>>, "ü="}]
        ] do
      assert {:ok, pool} = Config.pool(env: env)
      assert Map.new(pool.env) == %{"A" => "", "B" => nil, "C" => <<255>>, <<255>> => "ü="}
      assert {:ok, %{env: again}} = Config.pool(env: pool.env)
      assert again == pool.env
    end
  end

  test "an invalid variable is named, and no value is shown" do
    secret = "sk-s3cret"

    for {env, part} <- [
          {%{"A=B" => secret}, ~s("A=B")},
          {%{"" => secret}, "an empty name"},
          {%{"A\0B" => secret}, ~S("A\0B")},
          {%{"A" => secret <> "\0"}, ~s("A" with a NUL)},
          {%{"A" => [secret]}, ~s("A" that is not a string)},
          {%{a: secret}, ":a"},
          {[{"A", secret, secret}], "not a pair"},
          {[secret], "not a pair"},
          {[{"A", secret} | secret], "improper"},
          {secret, "neither a map nor a list"},
          {%URI{path: secret}, "neither a map nor a list"}
        ] do
      assert {:error, %Error{reason: :invalid_options, message: message}} = Config.pool(env: env)
      assert message =~ "the option :env"
      assert message =~ part
      refute message =~ secret
    end

    for options <- [%{env: %{"A" => secret}}, [{"env", %{"A" => secret}}]] do
      assert {:error, %Error{reason: :invalid_options, message: message}} = Config.pool(options)
      refute message =~ secret
    end
  end

  test "an invalid option is named with its place, its value and what is expected" do
    for {environment, parts} <- [
          {[pool_config: %{pool_size: 0}], ["pool_config", ":pool_size", "above 0", "0"]},
          {[pool_config: %{size: 1}], ["pool_config", "unknown option :size", ":pool_size"]},
          {[pool_config: 4], ["pool_config", "a map or keyword list", "4"]},
          {[grpc_config: %{transport: :udp}],
           ["grpc_config", ":transport", ":unix or :tcp", "udp"]},
          {[grpc_config: %{base_port: 70_000}], [":base_port", "0 to 65535", "70000"]},
          {[adapter_module: Nowhere],
           [":adapter_module", "implements Snakepit.Adapter", "Nowhere"]},
          {[adapter_module: Enum], [":adapter_module", "implements Snakepit.Adapter", "Enum"]},
          {[pool: [size: 4]], ["unknown option :pool", ":pool_config"]},
          {[env: %{A: 1}], [":env", "all strings"]}
        ] do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Environment.pool(environment)

      assert message =~ "config :snakepit"
      for part <- parts, do: assert(message =~ part)
    end
  end
end
