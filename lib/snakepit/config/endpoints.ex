defmodule Snakepit.Config.Endpoints do
  @moduledoc false
  # The option `:endpoints` of a remote pool: the addresses of servers that the pool does not start, or how to find
  # them.

  @type t ::
          [String.t()]
          | {:dns, String.t(), :inet.port_number()}
          | {:srv, String.t()}
          | module
          | {module, argument :: term}

  @tcp ~r/\Atcp:(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]\/]+):(\d{1,5})\z/
  @unix ~r/\Aunix:\S+\z/
  @name ~r/\A[A-Za-z0-9_.-]{1,253}\z/

  @doc "Whether it is a list of different addresses, a name in DNS, or a module that finds them."
  @spec valid?(term) :: boolean
  def valid?(endpoints) when is_list(endpoints), do: endpoints != [] and addresses?(endpoints)
  def valid?({:dns, name, port}), do: name?(name) and port in 1..65_535
  def valid?({:srv, name}), do: name?(name)
  def valid?({module, _argument}), do: module?(module)
  def valid?(module), do: module?(module)

  @doc "Whether it is a list of different addresses."
  @spec addresses?(term) :: boolean
  def addresses?(list) do
    is_list(list) and not List.improper?(list) and Enum.all?(list, &address?/1) and
      Enum.uniq(list) == list
  end

  defp address?(address) when is_binary(address) do
    case String.valid?(address) && Regex.run(@tcp, address) do
      [_address, port] -> String.to_integer(port) in 1..65_535
      _other -> String.valid?(address) and address =~ @unix
    end
  end

  defp address?(_other), do: false

  defp name?(name), do: is_binary(name) and name =~ @name

  defp module?(module) do
    is_atom(module) and module not in [nil, true, false] and Code.ensure_loaded?(module) and
      function_exported?(module, :endpoints, 1)
  end

  @doc "The name of an endpoint in its pool."
  @spec worker_id(atom, String.t()) :: String.t()
  def worker_id(pool, address),
    do: "#{inspect(pool)}/#{String.replace_prefix(address, "tcp:", "")}"
end
