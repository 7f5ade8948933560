defmodule Snakepit.Pool.Resolver do
  @moduledoc false
  # Finds the endpoints of a remote pool, in a process of its own: name servers and the user's modules may take time.

  alias Snakepit.Config.Endpoints
  alias Snakepit.Error.Cause

  # In ms.
  @timeout 10_000

  @typedoc "`:server_name` is the name that a certificate must have, if that is not the host of the address."
  @type endpoint :: %{address: String.t(), server_name: String.t() | nil}

  @doc """
  Sends `{:resolved, ref, {:ok, endpoints} | {:error, why}}` to the calling process, and returns the reference. There
  is at least one endpoint. Only the first message counts: there may be a second one.
  """
  @spec start(Endpoints.t()) :: reference
  def start(endpoints) do
    {owner, ref} = {self(), make_ref()}
    resolver = spawn(fn -> send(owner, {:resolved, ref, not_empty(resolve(endpoints))}) end)
    {:ok, _timer} = :timer.kill_after(@timeout, resolver)
    late = {:error, "#{shown(endpoints)} gave no answer within #{@timeout} ms"}
    Process.send_after(self(), {:resolved, ref, late}, @timeout)
    ref
  end

  defp not_empty({:ok, []}), do: {:error, "the list of endpoints is empty"}
  defp not_empty(result), do: result

  defp resolve(addresses) when is_list(addresses),
    do: {:ok, for(address <- addresses, do: %{address: address, server_name: nil})}

  defp resolve({:dns, name, port} = endpoints) do
    case addresses(String.to_charlist(name)) do
      {:ok, addresses} ->
        {:ok,
         for address <- addresses do
           %{address: "tcp:#{host(address)}:#{port}", server_name: name}
         end}

      {:error, reason} ->
        {:error, failed(endpoints, reason)}
    end
  end

  defp resolve({:srv, name} = endpoints) do
    case :inet_res.getbyname(String.to_charlist(name), :srv) do
      {:ok, {:hostent, _name, _aliases, :srv, _length, [_ | _] = records}} ->
        # The others are for the time when these do not work.
        {first, _weight, _port, _target} = Enum.min(records)

        {:ok,
         for {^first, _weight, port, target} <- records do
           %{address: "tcp:#{target}:#{port}", server_name: nil}
         end}

      {:ok, _none} ->
        {:ok, []}

      {:error, reason} ->
        {:error, failed(endpoints, reason)}
    end
  end

  defp resolve({module, argument}), do: ask(module, argument)
  defp resolve(module), do: ask(module, nil)

  # Names may have addresses of only one kind.
  defp addresses(name) do
    with {:error, reason} <- :inet.getaddrs(name, :inet),
         {:error, _reason} <- :inet.getaddrs(name, :inet6),
         do: {:error, reason}
  end

  defp host(address) when tuple_size(address) == 8, do: "[#{:inet.ntoa(address)}]"
  defp host(address), do: :inet.ntoa(address)

  defp ask(module, argument) do
    case module.endpoints(argument) do
      {:ok, addresses} when is_list(addresses) ->
        if Endpoints.addresses?(addresses),
          do: resolve(addresses),
          else: wrong(module, "returned a list of something else than different addresses")

      {:error, why} when is_binary(why) ->
        {:error, Cause.text(why)}

      _other ->
        wrong(module, "returned neither {:ok, a list of addresses} nor {:error, a string}")
    end
  catch
    kind, reason -> wrong(module, Cause.caught(kind, reason, __STACKTRACE__))
  end

  defp wrong(module, what), do: {:error, "#{inspect(module)}.endpoints/1 #{what}"}

  defp failed(endpoints, reason), do: "cannot resolve #{shown(endpoints)}: #{inspect(reason)}"

  defp shown({:dns, name, _port}), do: "the name #{name}"
  defp shown({:srv, name}), do: "the SRV records of #{name}"
  defp shown({module, _argument}), do: shown(module)
  defp shown(module), do: "#{inspect(module)}.endpoints/1"
end
