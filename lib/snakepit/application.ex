defmodule Snakepit.Application do
  @moduledoc false
  use Application

  alias Snakepit.Config.{Environment, RuntimeThreads}
  alias Snakepit.Pool.Group
  alias Snakepit.TwoWay.{Asks, Holding}

  @impl true
  def start(_type, _args) do
    with {:ok, _threads} <- RuntimeThreads.get(),
         {:ok, options} <- Environment.default_pool() do
      start([Group, Asks.supervisor() | if(options, do: [{Snakepit.Pool, options}], else: [])])
    else
      {:error, error} -> raise error
    end
  end

  defp start(children) do
    Holding.new()
    Supervisor.start_link(children, strategy: :one_for_one)
  end
end
