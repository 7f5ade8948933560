defmodule Snakepit.GRPC.Transport do
  @moduledoc false
  # Workers that serve `proto/snakepit.proto`. The native library sends calls to them directly.
  @behaviour Snakepit.Transport

  alias Snakepit.GRPC.{Channel, Listener}
  alias Snakepit.GRPCWorker
  alias Snakepit.Pool.Membership

  @impl true
  def run(pool, command, args, options), do: Channel.run(pool.native, command, args, options)

  @impl true
  def start(pool, tag, command, args, options),
    do: Channel.start(pool.native, tag, command, args, options)

  @impl true
  defdelegate received(pending, reply), to: Channel

  @impl true
  defdelegate give_up(pending, tag, options), to: Channel

  @impl true
  defdelegate cancel(pending, tag), to: Channel

  @impl true
  def stream(pool, command, args, options, recipient),
    do: Channel.open_stream(pool.native, command, args, options, recipient)

  @impl true
  def request_event, do: [:snakepit, :grpc, :request]

  @impl true
  def worker(worker), do: GRPCWorker.child_spec(worker)

  @impl true
  defdelegate shutdown(options), to: Membership, as: :time_to_stop

  @impl true
  defdelegate check_replacement(options), to: Listener
end
