defmodule Snakepit.Test.FileServer do
  @moduledoc false
  # Real HTTP servers on this machine, until the test has ended.

  import ExUnit.Callbacks

  alias Mix.Snakepit.Download

  @doc "Serves a directory, with TLS if given a certificate; returns the URL."
  def serve!(directory, tls \\ nil) do
    for app <- [:inets, :ssl], do: Download.start!(app)
    {scheme, socket} = if tls, do: {"https", {:ssl, tls}}, else: {"http", :ip_comm}

    options = [
      port: 0,
      bind_address: {127, 0, 0, 1},
      server_name: ~c"localhost",
      server_root: to_charlist(directory),
      document_root: to_charlist(directory),
      socket_type: socket,
      modules: [:mod_get]
    ]

    {:ok, server} = apply(:inets, :start, [:httpd, options])
    on_exit(fn -> apply(:inets, :stop, [:httpd, server]) end)
    [port: port] = apply(:httpd, :info, [server, [:port]])
    "#{scheme}://localhost:#{port}"
  end

  @doc "Answers one request, which the caller receives as `{:asked, request}`; returns the address."
  def answer_once!(status, body) do
    owner = self()
    {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listener)

    start_supervised!(
      {Task,
       fn ->
         {:ok, socket} = :gen_tcp.accept(listener)
         send(owner, {:asked, request(socket, "")})

         answer =
           "HTTP/1.1 #{status}\r\ncontent-length: #{byte_size(body)}\r\nconnection: close\r\n\r\n"

         :ok = :gen_tcp.send(socket, answer <> body)
         # The client closes.
         {:error, :closed} = :gen_tcp.recv(socket, 0)
       end},
      id: make_ref()
    )

    "localhost:#{port}"
  end

  defp request(socket, read) do
    if read =~ "\r\n\r\n" do
      read
    else
      {:ok, more} = :gen_tcp.recv(socket, 0)
      request(socket, read <> more)
    end
  end
end
