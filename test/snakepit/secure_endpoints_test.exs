defmodule Snakepit.SecureEndpointsTest do
  # Tokens, metadata and TLS of remote pools.
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools, except: [start_pool!: 0, start_pool!: 1]

  alias Snakepit.{Config, Error, Pool}
  alias Snakepit.GRPC.Client
  alias Snakepit.Test.{Certificates, Endpoints}

  @moduletag :tmp_dir
  @token "t0p-s3cret"

  def token(path), do: File.read!(path)

  setup_all do
    dir = Path.join(System.tmp_dir!(), "snakepit-tls-#{System.pid()}")
    on_exit(fn -> File.rm_rf!(dir) end)
    %{files: Certificates.write!(dir, "models")}
  end

  defp error(options) do
    assert {:error, %Error{reason: :grpc_unavailable, message: message}} =
             options |> Endpoints.start_remote_pool!() |> await_ready()

    message
  end

  defp works!(pool) do
    assert :ok = await_ready(pool)
    assert {:ok, %{"result" => 5}} = Snakepit.execute("add", %{a: 2, b: 3}, pool: pool)
    assert Enum.count(Snakepit.stream("counted", %{count: 3}, pool: pool)) == 3
  end

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
      # A channel takes the same, and says the same.
      assert {:error, %Error{reason: :invalid_options, message: ^message}} =
               Client.connect("tcp:far:1", [{option, wrong}])
    end

    options = [name: :no_such_pool, token: @token] ++ endpoints
    refute inspect(Pool.child_spec(options)) =~ @token
    refute inspect(Config.pool(options)) =~ @token
  end

  describe "a server with a token" do
    setup %{tmp_dir: dir} do
      path = Path.join(dir, "tokens")
      File.write!(path, @token <> "\n")
      %{endpoints: Endpoints.start!(args: ["--token-file", path])}
    end

    test "takes calls with it, and refuses the connection without", %{endpoints: endpoints} do
      pool = Endpoints.start_remote_pool!(endpoints: endpoints, token: @token)
      works!(pool)
      pid = hd(worker_pids(pool))
      refute inspect(:sys.get_status(pid), limit: :infinity) =~ @token
      for wrong <- ["other", nil], do: assert(error(options(endpoints, wrong)) =~ "token")
    end

    defp options(endpoints, nil), do: [endpoints: endpoints]
    defp options(endpoints, token), do: [endpoints: endpoints, token: token]

    test "gets the one that a function returns at each connect", %{
      endpoints: endpoints,
      tmp_dir: dir
    } do
      path = Path.join(dir, "current")
      token = {__MODULE__, :token, [path]}
      pool = Endpoints.start_remote_pool!(endpoints: endpoints, token: token)
      assert {:error, %Error{message: message}} = await_ready(pool)
      assert message =~ "Snakepit.SecureEndpointsTest.token/1" and message =~ "File.Error"
      File.write!(path, "old")
      because = fn text -> match?({:ok, [%{error: "" <> _}]}, list(pool, text)) end
      eventually(fn -> because.("token-file") end)
      File.write!(path, @token)
      eventually(fn -> await_ready(pool) == :ok end)
      works!(pool)
    end

    for server <- ["native", "grpcio"] do
      test "of #{server} is given another one without a call that fails", %{tmp_dir: dir} do
        [tokens, current] = for name <- ~w(rotated current), do: Path.join(dir, name)
        for path <- [tokens, current], do: File.write!(path, "one")
        [address] = Endpoints.start!(args: ["--server", unquote(server), "--token-file", tokens])
        token = {__MODULE__, :token, [current]}

        options = [
          endpoints: [address],
          token: token,
          health_interval: 100,
          health_misses: 10_000
        ]

        pool = Endpoints.start_remote_pool!(options)
        assert :ok = await_ready(pool)
        stop = :atomics.new(1, [])

        calling =
          Task.async(fn ->
            Stream.repeatedly(fn ->
              Enum.count(Snakepit.stream("counted", %{count: 3}, pool: pool))
            end)
            |> Stream.take_while(fn 3 -> :atomics.get(stop, 1) == 0 end)
            |> Enum.count()
          end)

        File.write!(tokens, "one\ntwo")
        # Once the server takes it.
        other = fn -> Client.connect(address, token: "two") end
        eventually(fn -> match?({:ok, _}, other.()) end)
        File.write!(current, "two")
        File.write!(tokens, "two")
        eventually(fn -> match?({:error, _}, Client.connect(address, token: "one")) end)
        eventually(fn -> match?({:ok, %{restarts: n}} when n > 0, Snakepit.stats(pool)) end)
        :atomics.put(stop, 1, 1)
        assert await(calling) > 0
      end
    end

    defp list(pool, text) do
      with {:ok, [%{error: error}]} = listed when error != nil <- Snakepit.list_workers(pool),
           true <- error =~ text,
           do: listed
    end
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

  describe "TLS" do
    defp serve!(files, more \\ []) do
      Endpoints.start!(args: ["--tls-cert", files.cert, "--tls-key", files.key | more])
    end

    test "is trusted by its authority and name, and by nothing else", %{
      files: files,
      tmp_dir: dir
    } do
      endpoints = serve!(files)
      trusted = [cacertfile: files.ca, server_name: "models"]
      pool = Endpoints.start_remote_pool!(endpoints: endpoints, tls: trusted)
      works!(pool)
      large = String.duplicate("x", 3_000_000)
      assert {:ok, %{"x" => ^large}} = Snakepit.execute("echo", %{x: large}, pool: pool)

      message = error(endpoints: endpoints, tls: [cacertfile: files.ca, server_name: "other"])
      assert message =~ "other" and message =~ ":server_name"
      other = Certificates.write!(Path.join(dir, "other"), "models")
      message = error(endpoints: endpoints, tls: [cacertfile: other.ca, server_name: "models"])
      assert message =~ "not signed by an authority"
      missing = Path.join(dir, "missing.pem")
      message = error(endpoints: endpoints, tls: [cacertfile: missing])
      assert message =~ missing and message =~ ":cacertfile"
      assert is_binary(error(endpoints: endpoints))
    end

    test "with the authorities of the system trusts no other", %{files: files} do
      message = error(endpoints: serve!(files), tls: true)
      assert message =~ "authority" or message =~ "authorities"
    end

    test "refuses a certificate that has expired, and a server without TLS", %{tmp_dir: dir} do
      files = Certificates.write!(Path.join(dir, "old"), "models", until: {2002, 1, 1})
      tls = [cacertfile: files.ca, server_name: "models"]
      assert error(endpoints: serve!(files), tls: tls) =~ "expired"
      assert error(endpoints: Endpoints.start!([]), tls: tls) =~ "TLS"
    end

    for server <- [:native, :grpcio] do
      test "shows a certificate of its own to a #{server} server that wants one, which takes no other",
           %{files: files, tmp_dir: dir} do
        how = ["--server", unquote(to_string(server)), "--client-ca", files.client_ca]
        [address] = endpoints = serve!(files, how)
        trusted = [cacertfile: files.ca, server_name: "models"]
        own = [certfile: files.client_cert, keyfile: files.client_key]
        works!(Endpoints.start_remote_pool!(endpoints: endpoints, tls: trusted ++ own))
        other = Certificates.write!(Path.join(dir, "other"), "models")
        foreign = [certfile: other.client_cert, keyfile: other.client_key]
        note = %{path: Path.join(dir, "ran"), text: "ran"}

        for tls <- [trusted, trusted ++ foreign] do
          pool = Endpoints.start_remote_pool!(endpoints: endpoints, tls: tls)

          attempts = [
            fn -> await_ready(pool) end,
            fn -> Snakepit.execute("note", note, pool: pool) end,
            fn -> Client.connect(address, tls: tls) end
          ]

          # On a machine that is too busy the cause may be missed.
          for attempt <- attempts, do: eventually(fn -> refused?(attempt.()) end)
        end

        refute File.exists?(note.path)
      end
    end
  end

  # Servers of grpcio do not say why.
  defp refused?({:error, %Error{reason: :grpc_unavailable, message: message} = error}) do
    not Error.may_have_run?(error) and
      (message =~ "refused the TLS connection" or message =~ ":certfile and :keyfile")
  end

  defp refused?({:error, %Error{}}), do: false

  describe "a channel" do
    setup %{files: files, tmp_dir: dir} do
      path = Path.join(dir, "tokens")
      File.write!(path, @token <> "\n")
      [address] = serve!(files, ["--client-ca", files.client_ca, "--token-file", path])
      own = [certfile: files.client_cert, keyfile: files.client_key]
      %{address: address, tls: [cacertfile: files.ca, server_name: "models"] ++ own}
    end

    test "has TLS, a token and metadata as a pool has", %{address: address, tls: tls} do
      for calls <- [true, false] do
        options = [tls: tls, token: {__MODULE__, :given, []}, metadata: [tenant: "a"]]
        assert {:ok, channel} = Client.connect(address, [calls: calls] ++ options)
        assert {:ok, %{"result" => 5}} = Client.execute(channel, "add", %{a: 2, b: 3})
        assert {:ok, %{"metadata" => metadata}} = Client.execute(channel, "request")
        assert metadata["tenant"] == "a"
        refute inspect(metadata) =~ @token
        own = [metadata: %{tenant: "b"}]
        assert {:ok, %{"metadata" => metadata}} = Client.execute(channel, "request", %{}, own)
        assert metadata["tenant"] == "b"
        assert Enum.count(Client.stream(channel, "counted", %{count: 3})) == 3
      end
    end

    test "is refused with the reason", %{address: address, tls: tls, tmp_dir: dir} do
      missing = Path.join(dir, "missing.pem")

      for {options, reason, text} <- [
            {[tls: tls], :unauthenticated, "token"},
            {[tls: tls, token: "other"], :unauthenticated, "token"},
            {[tls: tls, token: {File, :read!, [missing]}], :grpc_unavailable, "File.read!/1"},
            {[tls: [cacertfile: missing], token: @token], :grpc_unavailable, missing},
            {[tls: true, token: @token], :grpc_unavailable, "authorit"},
            {[tls: Keyword.put(tls, :server_name, "other"), token: @token], :grpc_unavailable,
             ":server_name"},
            {[tls: tls, token: {Process, :sleep, [:infinity]}, timeout: 200], :grpc_unavailable,
             ":token returned nothing within 200 ms"}
          ] do
        assert {:error, %Error{reason: ^reason, message: message}} =
                 Client.connect(address, options)

        assert message =~ text
        refute message =~ @token
      end
    end
  end

  def given, do: @token
end
