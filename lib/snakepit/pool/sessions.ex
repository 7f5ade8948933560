defmodule Snakepit.Pool.Sessions do
  @moduledoc false
  # The sessions of a pool, as far as callers end them.

  alias Snakepit.{Codec, Error, Telemetry}
  alias Snakepit.Pool.Registry

  @doc "See `Snakepit.end_session/2`."
  @spec end_session(atom, String.t()) :: :ok | {:error, Error.t()}
  def end_session(name, session_id) do
    with {:ok, pool} <- Registry.fetch(name) do
      case end_session_of(pool, session_id) do
        {:error, error} ->
          {:error, %{error | pool: name}}

        ended ->
          if ended,
            do: Telemetry.session(:ended, %{pool: name, session_id: session_id, worker_id: nil})

          :ok
      end
    end
  end

  # The pool does not know it: there is no event for its end.
  defp end_session_of(%{call_options: %{affinity: :server}} = pool, session_id),
    do: with(:ok <- Codec.end_server_session(pool.native, session_id), do: false)

  defp end_session_of(pool, session_id), do: Codec.end_session(pool.native, session_id)
end
