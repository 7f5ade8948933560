defmodule Snakepit.Application do
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    case Snakepit.Config.default_pool() do
      {:ok, nil} -> start([])
      {:ok, options} -> start([{Snakepit.Pool, options}])
      {:error, error} -> raise error
    end
  end

  defp start(children), do: Supervisor.start_link(children, strategy: :one_for_one)
end
