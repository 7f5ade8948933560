defmodule Snakepit.GRPC.RemoteTransport do
  @moduledoc false
  # Servers of `proto/snakepit.proto` that the pool does not start: calls reach them as they reach local workers.
  @behaviour Snakepit.Transport

  alias Snakepit.GRPC.Transport
  alias Snakepit.Pool.EndpointWorker

  @impl true
  defdelegate run(pool, command, args, options), to: Transport

  @impl true
  defdelegate start(pool, tag, command, args, options), to: Transport

  @impl true
  defdelegate received(pending, reply), to: Transport

  @impl true
  defdelegate give_up(pending, tag, options), to: Transport

  @impl true
  defdelegate cancel(pending, tag), to: Transport

  @impl true
  defdelegate stream(pool, command, args, options, recipient), to: Transport

  @impl true
  defdelegate request_event, to: Transport

  @impl true
  def worker(endpoint), do: EndpointWorker.child_spec(endpoint)

  @impl true
  defdelegate shutdown(options), to: EndpointWorker, as: :time_to_stop

  @impl true
  def check_replacement(_options) do
    {:error,
     "other programs start the servers of :endpoints: restart them there, one after another"}
  end
end
