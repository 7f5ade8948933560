defmodule Snakepit.Application do
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    children =
      case Snakepit.Config.default_pool() do
        nil -> []
        options -> [{Snakepit.Pool, options}]
      end

    Supervisor.start_link(children, strategy: :one_for_one)
  end
end
