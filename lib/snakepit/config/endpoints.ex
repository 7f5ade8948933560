defmodule Snakepit.Config.Endpoints do
  @moduledoc false
  # The option `:endpoints` of a remote pool: the addresses of servers that the pool does not start.

  @tcp ~r/\Atcp:(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]\/]+):(\d{1,5})\z/
  @unix ~r/\Aunix:\S+\z/

  @doc "Whether it is a list of different addresses."
  @spec valid?(term) :: boolean
  def valid?([_ | _] = endpoints) do
    not List.improper?(endpoints) and Enum.all?(endpoints, &address?/1) and
      Enum.uniq(endpoints) == endpoints
  end

  def valid?(_other), do: false

  defp address?(address) when is_binary(address) do
    case String.valid?(address) && Regex.run(@tcp, address) do
      [_address, port] -> String.to_integer(port) in 1..65_535
      _other -> String.valid?(address) and address =~ @unix
    end
  end

  defp address?(_other), do: false

  @doc "The name of an endpoint in its pool."
  @spec worker_id(atom, String.t()) :: String.t()
  def worker_id(pool, address),
    do: "#{inspect(pool)}/#{String.replace_prefix(address, "tcp:", "")}"
end
