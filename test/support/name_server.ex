defmodule Snakepit.Test.NameServer do
  @moduledoc false
  # A name server on this machine, whose records a test sets. While it runs, this BEAM asks no other one: a test that
  # uses it runs alone.
  use GenServer

  import ExUnit.Callbacks

  @doc "Starts it, and returns its process. `records` is a map of names to `{:a, addresses}` or `{:srv, records}`."
  def start!(records) do
    lookup = :inet_db.res_option(:lookup)

    options =
      for option <- [:resolv_conf, :nameservers], do: {option, :inet_db.res_option(option)}

    server = start_supervised!({__MODULE__, records})
    :inet_db.res_option(:resolv_conf, ~c"")
    :inet_db.res_option(:nameservers, [{{127, 0, 0, 1}, GenServer.call(server, :port)}])
    :inet_db.set_lookup([:file, :dns])

    on_exit(fn ->
      :inet_db.set_lookup(lookup)
      for {option, value} <- options, do: :inet_db.res_option(option, value)
    end)

    server
  end

  def set(server, name, record), do: GenServer.call(server, {:set, name, record})

  def start_link(records), do: GenServer.start_link(__MODULE__, records)

  @impl true
  def init(records) do
    {:ok, socket} = :gen_udp.open(0, [:binary, ip: {127, 0, 0, 1}])
    {:ok, %{socket: socket, records: records}}
  end

  @impl true
  def handle_call(:port, _from, state), do: {:reply, elem(:inet.port(state.socket), 1), state}

  def handle_call({:set, name, record}, _from, state),
    do: {:reply, :ok, put_in(state.records[name], record)}

  @impl true
  def handle_info({:udp, socket, address, port, packet}, state) do
    {:ok, query} = :inet_dns.decode(packet)
    [asked] = :inet_dns.msg(query, :qdlist)
    {name, type} = {:inet_dns.dns_query(asked, :domain), :inet_dns.dns_query(asked, :type)}

    answers =
      case state.records[to_string(name)] do
        {^type, values} ->
          for data <- values,
              do: :inet_dns.make_rr(domain: name, type: type, class: :in, ttl: 0, data: data)

        _other ->
          []
      end

    id = query |> :inet_dns.msg(:header) |> :inet_dns.header(:id)
    header = :inet_dns.make_header(id: id, qr: true, opcode: :query, aa: true, rd: true, rcode: 0)
    reply = :inet_dns.make_msg(header: header, qdlist: [asked], anlist: answers)
    :ok = :gen_udp.send(socket, address, port, :inet_dns.encode(reply))
    {:noreply, state}
  end
end
