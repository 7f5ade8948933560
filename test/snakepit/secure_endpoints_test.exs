defmodule Snakepit.SecureEndpointsTest do
  # Tokens, metadata and TLS of remote pools.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, except: [start_pool!: 0, start_pool!: 1]

  alias Snakepit.{Config, Error, Pool}
  alias Snakepit.Test.Endpoints

  @token "t0p-s3cret"

  test "the options refuse what they do not take, and show no token" do
    endpoints = [endpoints: ["tcp:far:1"]]

    for {option, wrong} <- [
          token: "",
          token: "two words",
          token: "line\n",
          token: {__MODULE__, :no_function, []},
          token: 7,
          tls: false,
          tls: [],
          tls: [certfile: "me.pem"],
          tls: [cacertfile: 7],
          tls: [verify: false],
          metadata: %{"Upper" => "x"},
          metadata: %{"grpc-timeout" => "1S"}
        ] do
      assert {:error, %Error{reason: :invalid_options, message: message}} =
               Config.pool([{option, wrong} | endpoints])

      assert message =~ inspect(option)
      if is_binary(wrong) and wrong != "", do: refute(message =~ wrong)
    end

    options = [name: :no_such_pool, token: @token] ++ endpoints
    refute inspect(Pool.child_spec(options)) =~ @token
    refute inspect(Config.pool(options)) =~ @token
  end

  test "metadata of the pool is in every call, before that of the call" do
    endpoints = Endpoints.start!([])
    metadata = [application: "chat", tenant: "all"]
    pool = Endpoints.start_remote_pool!(endpoints: endpoints, metadata: metadata)
    assert :ok = await_ready(pool)
    options = [pool: pool, metadata: %{"tenant" => "one"}]
    assert {:ok, %{"metadata" => metadata}} = Snakepit.execute("request", %{}, options)
    assert %{"application" => "chat", "tenant" => "one"} = metadata
  end
end
