defmodule Mix.Snakepit.Download do
  @moduledoc false
  # Downloads a file into memory: with verified certificates, through the proxy that the environment
  # names, and with bounds on time and size.

  @max_bytes 128 * 1024 * 1024
  @connect_timeout 30_000
  @idle_timeout 60_000

  def get(url) do
    for app <- [:inets, :ssl, :public_key], do: start!(app)
    profile = :"snakepit_#{System.unique_integer([:positive])}"
    {:ok, client} = erlang(:inets, :start, [:httpc, [profile: profile]])

    try do
      proxies = proxies(URI.parse(url))
      :ok = erlang(:httpc, :set_options, [Keyword.take(proxies, [:proxy, :https_proxy]), profile])
      options = ssl(url) ++ Keyword.take(proxies, [:proxy_auth])
      request(url, options ++ [connect_timeout: @connect_timeout], profile)
    after
      erlang(:inets, :stop, [:httpc, client])
    end
  end

  # From Elixir 1.15 on, Mix removes applications that a project does not list from the code path.
  def start!(app) do
    if function_exported?(Mix, :ensure_application!, 1),
      do: apply(Mix, :ensure_application!, [app])

    {:ok, _} = Application.ensure_all_started(app)
  end

  defp request(url, options, profile) do
    headers = [{~c"user-agent", ~c"snakepit"}]
    receiver = [sync: false, stream: :self, body_format: :binary]

    with {:ok, request} <-
           erlang(:httpc, :request, [
             :get,
             {to_charlist(url), headers},
             options,
             receiver,
             profile
           ]),
         {:error, _} = error <- body(request, [], 0) do
      erlang(:httpc, :cancel_request, [request, profile])
      error
    else
      {:ok, body} -> {:ok, body}
      {:error, reason} -> {:error, describe(reason)}
    end
  end

  defp body(request, read, size) do
    receive do
      {:http, {^request, :stream_start, _headers}} ->
        body(request, read, size)

      {:http, {^request, :stream, part}} when size + byte_size(part) <= @max_bytes ->
        body(request, [read, part], size + byte_size(part))

      {:http, {^request, :stream, _part}} ->
        {:error, "it is larger than #{@max_bytes} bytes"}

      {:http, {^request, :stream_end, _headers}} ->
        {:ok, IO.iodata_to_binary(read)}

      {:http, {^request, {{_http, status, phrase}, _headers, _body}}} ->
        {:error, "the server answered #{status} #{phrase}"}

      {:http, {^request, {:error, reason}}} ->
        {:error, describe(reason)}
    after
      @idle_timeout -> {:error, "nothing arrived for #{div(@idle_timeout, 1000)} seconds"}
    end
  end

  defp describe(reason) when is_binary(reason), do: reason

  defp describe({:failed_connect, [{:to_address, {host, port}}, {_inet, _options, reason}]}),
    do: "cannot connect to #{host}:#{port}: #{describe(reason)}"

  # The text says in which function of Erlang, and why.
  defp describe({:tls_alert, {alert, text}}),
    do:
      "the server's certificate was not accepted (#{alert}: #{text |> to_string() |> String.split() |> Enum.join(" ")})"

  defp describe(reason), do: inspect(reason)

  defp ssl("http:" <> _), do: []

  defp ssl("https:" <> _) do
    match = erlang(:public_key, :pkix_verify_hostname_match_fun, [:https])

    [
      ssl: [
        verify: :verify_peer,
        cacerts: certificates!(),
        depth: 10,
        customize_hostname_check: [match_fun: match]
      ]
    ]
  end

  # Like other clients, also reads the roots of a company from a file that is named in the environment.
  defp certificates! do
    case Mix.Snakepit.env("SSL_CERT_FILE") do
      nil ->
        erlang(:public_key, :cacerts_get, [])

      file ->
        for {:Certificate, der, _} <- erlang(:public_key, :pem_decode, [File.read!(file)]),
            do: der
    end
  rescue
    error ->
      Mix.raise(
        "no root certificates to verify a server by (#{Exception.message(error)}): install them (Debian, " <>
          "Alpine: the package ca-certificates), or name a file of them in SSL_CERT_FILE"
      )
  end

  # As curl reads them.
  defp proxies(%URI{scheme: scheme}) do
    name = scheme <> "_proxy"

    case env(name) || (scheme == "https" && env("all_proxy")) do
      proxy when proxy in [nil, false, ""] ->
        []

      proxy ->
        uri = URI.parse(if proxy =~ "://", do: proxy, else: "http://" <> proxy)
        key = if scheme == "https", do: :https_proxy, else: :proxy
        [{key, {{to_charlist(uri.host), uri.port}, no_proxy()}} | proxy_auth(uri.userinfo)]
    end
  end

  defp proxy_auth(nil), do: []

  defp proxy_auth(userinfo) do
    [user | rest] = String.split(userinfo, ":", parts: 2)
    password = List.first(rest) || ""

    [
      proxy_auth:
        {user |> URI.decode() |> to_charlist(), password |> URI.decode() |> to_charlist()}
    ]
  end

  defp no_proxy do
    for host <- String.split(env("no_proxy") || "", [",", " "], trim: true),
        host = if(String.starts_with?(host, "."), do: "*" <> host, else: host),
        do: to_charlist(host)
  end

  defp env(name), do: System.get_env(name) || System.get_env(String.upcase(name))

  # Only the build needs these modules: the application does not depend on theirs, and the compiler
  # would warn of a direct call.
  defp erlang(module, function, args), do: apply(module, function, args)
end
