defmodule Mix.Snakepit.DownloadTest do
  # Changes variables of the environment.
  use ExUnit.Case

  import Snakepit.Test.FileServer

  alias Mix.Snakepit.Download

  @moduletag :tmp_dir
  @variables ~w(http_proxy HTTP_PROXY https_proxy HTTPS_PROXY all_proxy ALL_PROXY no_proxy NO_PROXY SSL_CERT_FILE)

  setup %{tmp_dir: dir} do
    Snakepit.Test.Environment.put(for name <- @variables, do: {name, nil})
    File.write!(Path.join(dir, "file"), "content")
    :ok
  end

  test "returns the file, or the reason", %{tmp_dir: dir} do
    url = serve!(dir)
    assert Download.get(url <> "/file") == {:ok, "content"}
    assert {:error, "the server answered 404 " <> _} = Download.get(url <> "/missing")

    assert {:error, "cannot connect to localhost:1: :econnrefused"} =
             Download.get("http://localhost:1/file")

    assert {:error, _} = Download.get("http://host.invalid/file")
  end

  test "verifies the server's certificate and its name", %{tmp_dir: dir} do
    {authority, certificate} = certificate!(dir, "localhost")
    url = serve!(dir, certificate)
    assert {:error, reason} = Download.get(url <> "/file")
    assert reason =~ ~r/the server's certificate was not accepted \(unknown_ca|bad_certificate/

    System.put_env("SSL_CERT_FILE", authority)
    assert Download.get(url <> "/file") == {:ok, "content"}

    {authority, certificate} = certificate!(dir, "other.example")
    System.put_env("SSL_CERT_FILE", authority)
    assert {:error, reason} = Download.get(serve!(dir, certificate) <> "/file")
    assert reason =~ "hostname_check_failed"
  end

  test "names the file of certificates that cannot be read", %{tmp_dir: dir} do
    System.put_env("SSL_CERT_FILE", Path.join(dir, "nowhere.pem"))
    error = assert_raise Mix.Error, fn -> Download.get("https://localhost:1/file") end
    assert error.message =~ "nowhere.pem"
    assert error.message =~ "ca-certificates"
  end

  test "verifies by the system's certificates if SSL_CERT_FILE is set to nothing" do
    System.put_env("SSL_CERT_FILE", "")

    assert {:error, "cannot connect to localhost:1: " <> _} =
             Download.get("https://localhost:1/file")
  end

  for {variable, url} <- [
        {"HTTP_PROXY", "http://host.invalid/file"},
        {"http_proxy", "http://host.invalid/file"}
      ] do
    test "asks the proxy of #{variable}" do
      System.put_env(
        unquote(variable),
        "http://user:secret@" <> answer_once!("200 OK", "by proxy")
      )

      assert Download.get(unquote(url)) == {:ok, "by proxy"}
      assert_received {:asked, request}
      assert request =~ "GET http://host.invalid/file HTTP/1.1"
      assert request =~ ~r/^proxy-authorization: basic #{Base.encode64("user:secret")}/im
    end
  end

  test "asks the proxy of HTTPS_PROXY for a tunnel" do
    System.put_env("HTTPS_PROXY", "http://" <> answer_once!("403 Forbidden", ""))
    assert {:error, _} = Download.get("https://host.invalid/file")
    assert_received {:asked, "CONNECT host.invalid:443 HTTP/1.1" <> _}
  end

  test "asks no proxy for a host in NO_PROXY", %{tmp_dir: dir} do
    System.put_env("HTTP_PROXY", "http://localhost:1")
    System.put_env("NO_PROXY", "example.org,localhost")
    assert Download.get(serve!(dir) <> "/file") == {:ok, "content"}
  end

  # A certificate for a name, and that of the authority which has signed it.
  defp certificate!(dir, name) do
    [ca_key, ca, key, request, certificate, names] =
      for extension <- ~w(ca.key ca.pem key csr pem names),
          do: Path.join(dir, "#{name}.#{extension}")

    File.write!(names, "subjectAltName=DNS:#{name}")
    new_key = ~w(req -newkey rsa:2048 -nodes -subj)
    openssl!(new_key ++ ["/CN=authority", "-x509", "-days", "2", "-keyout", ca_key, "-out", ca])
    openssl!(new_key ++ ["/CN=#{name}", "-keyout", key, "-out", request])
    signed = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", names, "-days", "2"]
    openssl!(["x509", "-req", "-in", request, "-out", certificate] ++ signed)
    {ca, certfile: certificate, keyfile: key}
  end

  defp openssl!(args), do: {_, 0} = System.cmd("openssl", args, stderr_to_stdout: true)
end
