defmodule Snakepit.Pool.Sessions do
  @moduledoc false
  # The sessions of a pool, as far as callers end them.

  alias Snakepit.{Codec, Error, Telemetry}
  alias Snakepit.Pool.Registry

  @doc "See `Snakepit.end_session/2`."
  @spec end_session(atom, String.t()) :: :ok | {:error, Error.t()}
  def end_session(name, session_id) do
    with {:ok, pool} <- Registry.fetch(name) do
      case Codec.end_session(pool.native, session_id) do
        {:error, error} ->
          {:error, %{error | pool: name}}

        ended ->
          if ended,
            do: Telemetry.session(:ended, %{pool: name, session_id: session_id, worker_id: nil})

          :ok
      end
    end
  end
end
