defmodule Snakepit.Faults.Secrets do
  @moduledoc false
  # Certificates and tokens that are wrong: the pool says what is wrong, sends no call, and is ready
  # once they are right, without being started again.

  import Snakepit.Faults.Trial

  alias Snakepit.Faults.{Load, Server}
  alias Snakepit.Test.Certificates

  def trials do
    [
      %{
        name: "secrets",
        about:
          "wrong CA, wrong name, expired certificate, another CA's client certificate, wrong token; then the right ones",
        short: true,
        run: &secrets/1
      },
      %{
        name: "token-rotation",
        about: "tokens are added, used and removed under load",
        short: true,
        run: &rotation/1
      }
    ]
  end

  # Which files and token are wrong, and what the pool says.
  @cases [
    {"wrong CA", [ca: :other], ~r/not signed by an authority/},
    {"wrong name", [ca: :elsewhere, server: :elsewhere], ~r/not for the name/},
    {"expired certificate", [ca: :expired, server: :expired], ~r/expired/},
    # A server of TLS 1.3 refuses it after the handshake. Whether its alert arrives before the end of the connection
    # is up to the network.
    {"client certificate of another CA", [client: :other], ~r/refused|closed|accepted no more/},
    {"wrong token", [token: :wrong], ~r/token/}
  ]
  @right [ca: :right, server: :right, client: :right, token: :right]
  @tokens %{right: "r1ght-t0ken", wrong: "wr0ng-t0ken"}

  defp secrets(what) do
    files = certificates!([:right, :other, :elsewhere, :expired])

    for {kind, cases} <- [native: @cases, grpcio: times(what, by_server(), @cases)] do
      each_at_once(cases, fn {name, wrong, expected} ->
        refused("#{kind}, #{name}", kind, wrong, expected, files)
      end)

      figure("#{kind}: refused, and accepted once right", length(cases))
    end
  end

  # Where the server refuses the pool, and not the pool the server, which is the same code for every server.
  defp by_server, do: for({_, wrong, _} = one <- @cases, wrong[:client] || wrong[:token], do: one)

  defp refused(label, kind, wrong, expected, files) do
    folder = folder()
    give(folder, Keyword.merge(@right, wrong), files)
    set(folder, "tokens", @tokens.right)
    server = Server.start!(server: kind, args: server_args(folder))
    journal = Path.join(folder, "journal")
    File.touch!(journal)
    {pool, _} = started = start_pool_unready!(server, folder)
    {:error, error} = Snakepit.Pool.await_ready(pool, 60_000)
    call = fn token -> Snakepit.execute("mark", %{path: journal, token: token}, pool: pool) end
    results = for token <- 1..3, do: call.(token)

    for {:error, shown} <- [{:error, error} | results] do
      must(shown.reason == :grpc_unavailable, "#{label}: the reason is #{inspect(shown.reason)}")
      must(shown.message =~ expected, "#{label}: the message is #{shown.message}")
      must(not (shown.message =~ "t0ken"), "#{label}: the message shows the token")
    end

    IO.puts("#{label}: #{error.message}")
    must(Enum.all?(results, &match?({:error, _}, &1)), "#{label}: a call succeeded")

    # The server reads its own certificate when it starts, the pool its files at each connect.
    give(folder, @right, files)

    if wrong[:server] do
      Server.kill!(server, "KILL")
      Server.start_again!(server)
    end

    ready!(pool)
    {:ok, _} = call.(4)
    must(File.read!(journal) == "4\n", "#{label}: a call ran that was refused")
    stop_pools([started])
    Server.stop!(server)
  end

  # As the guide says: the new token is added, then the clients use it, then the old one is removed.
  defp rotation(what) do
    files = certificates!([:right])

    for kind <- [:native, :grpcio] do
      folder = folder()
      give(folder, @right, files)
      set(folder, "token", "t0ken-0")
      set(folder, "tokens", "t0ken-0\n")
      servers = for _ <- 1..2, do: Server.start!(server: kind, args: server_args(folder))
      # Servers of grpcio say it only to those who ask for their health.
      {pool, _} = started = start_pool_unready!(servers, folder, health_interval: 500)
      ready!(pool)
      load = Load.start(pool, kinds: [:unary, :quick, :stream], callers: 16, what: what)
      rotations = times(what, 1, 10)

      for number <- 1..rotations do
        {old, new} = {"t0ken-#{number - 1}", "t0ken-#{number}"}
        set(folder, "tokens", "#{old}\n#{new}\n")
        accepted!(servers, folder, new)
        set(folder, "token", new)
        Load.goes_on(load, 100)
        set(folder, "tokens", "#{new}\n")
        left = number * length(servers)
        wait("#{kind}: the servers ask to leave", fn -> reconnections(pool) >= left end)
        ready!(pool)
      end

      # No call is refused.
      Load.stop(load, kind, [])
      figure("#{kind}: rotations", rotations)
      stop_pools([started])
      Enum.each(servers, &Server.stop!/1)
    end
  end

  # By a pool that has it already.
  defp accepted!(servers, folder, token) do
    {pool, _} = started = start_pool_unready!(servers, folder, token: token)
    ready!(pool)
    stop_pools([started])
  end

  defp reconnections(pool) do
    {:ok, %{restarts: reconnections}} = Snakepit.stats(pool)
    reconnections
  end

  @doc "The function of the pool's option `:token`."
  def token(folder), do: File.read!(Path.join(folder, "token"))

  # Nobody reads half of it.
  defp set(folder, name, text) do
    path = Path.join(folder, name)
    File.write!(path <> ".new", text)
    File.rename!(path <> ".new", path)
  end

  defp start_pool_unready!(servers, folder, options \\ []) do
    file = &Path.join(folder, &1)

    tls = [
      cacertfile: file.("ca.pem"),
      certfile: file.("client.pem"),
      keyfile: file.("client.key"),
      server_name: "models.test"
    ]

    addresses = servers |> List.wrap() |> Enum.map(&Server.address/1)
    defaults = [tls: tls, token: {__MODULE__, :token, [folder]}, connect_timeout: 60_000]
    Server.start_pool_unready!(addresses, Keyword.merge(defaults, options))
  end

  defp server_args(folder) do
    file = &Path.join(folder, &1)
    tls = ["--tls-cert", file.("server.pem"), "--tls-key", file.("server.key")]
    tls ++ ["--client-ca", file.("authority.pem"), "--token-file", file.("tokens")]
  end

  defp folder do
    folder = Path.join(System.tmp_dir!(), "case#{System.unique_integer([:positive])}")
    File.mkdir_p!(folder)
    folder
  end

  defp give(folder, given, files) do
    for {part, from} <- given do
      case part do
        :token ->
          set(folder, "token", @tokens[from])

        :ca ->
          copy(files[from], [ca: "ca.pem"], folder)

        :server ->
          copy(files[from], [cert: "server.pem", key: "server.key"], folder)

        :client ->
          copy(files[from], [client_cert: "client.pem", client_key: "client.key"], folder)
      end
    end

    # What the server trusts is always the same.
    copy(files.right, [client_ca: "authority.pem"], folder)
  end

  defp copy(files, names, folder),
    do: for({file, name} <- names, do: set(folder, name, File.read!(files[file])))

  # Certificates, each set with an authority of its own. Their keys take long.
  defp certificates!(names) do
    folder = folder()

    for name <- names, into: %{} do
      {host, options} = certificate(name)
      {name, Certificates.write!(Path.join(folder, "#{name}"), host, options)}
    end
  end

  defp certificate(:elsewhere), do: {"elsewhere.test", []}
  defp certificate(:expired), do: {"models.test", until: {2002, 1, 1}}
  defp certificate(_), do: {"models.test", []}
end
