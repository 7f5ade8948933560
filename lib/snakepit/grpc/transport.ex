defmodule Snakepit.GRPC.Transport do
  @moduledoc false
  # Workers that serve `proto/snakepit.proto`. The native library sends them the calls.
  @behaviour Snakepit.Transport

  alias Snakepit.GRPC.Channel
  alias Snakepit.GRPCWorker
  alias Snakepit.Pool.Membership

  @impl true
  def run(pool, command, args, options), do: Channel.run(pool.native, command, args, options)

  @impl true
  def stream(pool, command, args, options, recipient),
    do: Channel.open_stream(pool.native, command, args, options, recipient)

  @impl true
  def request_event, do: [:snakepit, :grpc, :request]

  @impl true
  def worker(worker), do: GRPCWorker.child_spec(worker)

  @impl true
  defdelegate shutdown(options), to: Membership, as: :time_to_stop

  # A replacement listens beside all workers.
  @impl true
  def check_replacement(%{transport: :tcp, base_port: first, port_range: range, size: size})
      when first != 0 and range <= size do
    {:error,
     "a worker is replaced by one that starts beside it, which takes a port more than there are " <>
       "workers: with :size #{size}, :port_range must be #{size + 1} or more, and is #{range}"}
  end

  def check_replacement(_options), do: :ok
end
