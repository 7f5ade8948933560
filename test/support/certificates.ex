defmodule Snakepit.Test.Certificates do
  @moduledoc false
  # Certificates for servers and clients of the tests, each set signed by authorities of its own.

  @subject_alt_name {2, 5, 29, 17}

  @doc """
  Writes a certificate for servers of that name and one for clients, and returns the paths of the files: `:cert`, `:key` and
  `:client_ca` of the server, `:ca`, `:client_cert` and `:client_key` of the client. `:until` is the server's last day.
  """
  def write!(dir, name, options \\ []) do
    File.mkdir_p!(dir)
    key = {:rsa, 2048, 65_537}
    authority = [key: key, digest: :sha256]
    alt_name = {:Extension, @subject_alt_name, false, [dNSName: String.to_charlist(name)]}

    validity = for until <- List.wrap(options[:until]), do: {:validity, {{2001, 1, 1}, until}}

    peer = authority ++ [extensions: [alt_name]] ++ validity
    [of_server, of_client] = for _ <- 1..2, do: :public_key.pkix_test_root_cert(~c"CA", authority)

    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{
        server_chain: %{root: of_server, intermediates: [], peer: peer},
        client_chain: %{root: of_client, intermediates: [], peer: authority}
      })

    for {file, entries} <- [
          cert: [certificate(server[:cert], of_server)],
          key: [key(server[:key])],
          client_ca: [certificate(of_client.cert, of_client)],
          ca: [certificate(of_server.cert, of_server)],
          client_cert: [certificate(client[:cert], of_client)],
          client_key: [key(client[:key])]
        ],
        into: %{} do
      path = Path.join(dir, "#{file}.pem")
      File.write!(path, :public_key.pem_encode(entries))
      {file, path}
    end
  end

  # OTP 29 leaves out the parameters of RSA's algorithms. They have to be NULL: rustls takes no other certificate.
  defp certificate(der, %{key: signs}) do
    {:OTPCertificate, tbs, algorithm, _} = :public_key.pkix_decode_cert(der, :otp)

    der =
      if elem(algorithm, 2) == :asn1_NOVALUE,
        do: tbs |> with_parameters(algorithm) |> :public_key.pkix_sign(signs),
        else: der

    {:Certificate, der, :not_encrypted}
  end

  defp with_parameters(tbs, algorithm) do
    {:OTPSubjectPublicKeyInfo, of_key, key} = elem(tbs, 7)
    signature = put_elem(algorithm, 2, {:asn1_OPENTYPE, <<5, 0>>})

    tbs
    |> put_elem(3, signature)
    |> put_elem(7, {:OTPSubjectPublicKeyInfo, put_elem(of_key, 2, :NULL), key})
  end

  defp key({type, der}), do: {type, der, :not_encrypted}
end
