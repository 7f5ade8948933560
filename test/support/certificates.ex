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

    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{
        server_chain: %{root: authority, intermediates: [], peer: peer},
        client_chain: %{root: authority, intermediates: [], peer: authority}
      })

    for {file, entries} <- [
          cert: [certificate(server[:cert])],
          key: [key(server[:key])],
          client_ca: Enum.map(server[:cacerts], &certificate/1),
          ca: Enum.map(client[:cacerts], &certificate/1),
          client_cert: [certificate(client[:cert])],
          client_key: [key(client[:key])]
        ],
        into: %{} do
      path = Path.join(dir, "#{file}.pem")
      File.write!(path, :public_key.pem_encode(entries))
      {file, path}
    end
  end

  defp certificate(der), do: {:Certificate, der, :not_encrypted}
  defp key({type, der}), do: {type, der, :not_encrypted}
end
