defmodule Snakepit.Endpoints do
  @moduledoc """
  Finds the endpoints of a remote pool: an implementation asks whatever knows where the servers run.

      defmodule MyApp.Models do
        @behaviour Snakepit.Endpoints

        @impl true
        def endpoints(region), do: {:ok, Application.get_env(:my_app, {:models, region}, [])}
      end

      {Snakepit.Pool, name: MyApp.Far, endpoints: {MyApp.Models, :europe}}

  `endpoints: MyApp.Models` passes `nil` as the argument. For names in DNS no module is needed: see [Beyond one
  machine](beyond_one_machine.md#endpoints-by-name).
  """

  @doc """
  Returns the addresses of the servers, each `"tcp:host:port"` or `"unix:/path"`, or why they are not known.

  It is called when the pool starts, every 30 s, and each time the connection to an endpoint is lost, in a process of its
  own, and has 10 s. What it raises counts as an error. After an error or an empty list the pool keeps the endpoints that it
  has.
  """
  @doc since: "0.1.0"
  @callback endpoints(argument :: term) :: {:ok, [String.t()]} | {:error, String.t()}
end
