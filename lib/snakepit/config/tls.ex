defmodule Snakepit.Config.Tls do
  @moduledoc false
  # The option `:tls` of a remote pool: which servers it trusts, and which certificate it has itself. The files are
  # read at each connect, so that they may be replaced while the pool runs.

  alias Snakepit.Config.Paths

  @files [:cacertfile, :certfile, :keyfile]

  @typedoc "What the native library takes. Without `:authorities` those of the system, in DER, count."
  @type loaded :: %{
          authorities: binary | nil,
          system: [binary],
          certificate: binary | nil,
          key: binary | nil,
          server_name: String.t() | nil
        }

  @doc "Whether it is true, or a list of these options."
  @spec valid?(term) :: boolean
  def valid?(true), do: true

  def valid?(options) do
    Keyword.keyword?(options) and options != [] and Enum.all?(options, &option?/1) and
      Keyword.has_key?(options, :certfile) == Keyword.has_key?(options, :keyfile)
  end

  defp option?({:server_name, name}), do: text?(name) and name != ""
  defp option?({file, {app, path}}) when file in @files, do: is_atom(app) and text?(path)
  defp option?({file, path}) when file in @files, do: text?(path)
  defp option?(_other), do: false

  defp text?(value), do: is_binary(value) and String.valid?(value)

  @doc """
  Reads the files; relative paths start from `root`. `server_name` is that of the endpoint, which counts without
  the option of that name.
  """
  @spec load(nil | true | keyword, Path.t(), String.t() | nil) ::
          {:ok, loaded | nil} | {:error, String.t()}
  def load(nil, _root, _server_name), do: {:ok, nil}
  def load(true, root, server_name), do: load([], root, server_name)

  def load(options, root, server_name) do
    with {:ok, authorities} <- read(options, :cacertfile, root),
         {:ok, system} <- system(authorities),
         {:ok, certificate} <- read(options, :certfile, root),
         {:ok, key} <- read(options, :keyfile, root) do
      {:ok,
       %{
         authorities: authorities,
         system: system,
         certificate: certificate,
         key: key,
         server_name: options[:server_name] || server_name
       }}
    end
  end

  defp read(options, file, root) do
    with {:ok, given} <- Keyword.fetch(options, file),
         {:ok, path} <- Paths.expand(given, root),
         {:error, reason} <- File.read(path) do
      {:error,
       "cannot read #{path}, the #{inspect(file)} of the option :tls: #{:file.format_error(reason)}"}
    else
      :error -> {:ok, nil}
      {:ok, text} -> {:ok, text}
      {:error, message} -> {:error, message}
    end
  end

  defp system(nil) do
    {:ok, for({:cert, der, _decoded} <- :public_key.cacerts_get(), do: der)}
  catch
    _kind, _reason ->
      {:error,
       "the system has no list of authorities that Erlang finds: name one by the :cacertfile of the option :tls"}
  end

  defp system(_authorities), do: {:ok, []}
end
