defmodule Snakepit.Config.RuntimeThreads do
  @moduledoc false
  # The threads of the native library, which all pools share: `config :snakepit, runtime_threads: 2`. Read when
  # the library is loaded.

  alias Snakepit.Config.Options
  alias Snakepit.Error

  @doc "Returns the number of threads, or what is wrong with the setting."
  @spec get() :: {:ok, pos_integer} | {:error, Error.t()}
  def get do
    # The threads share the cores with the schedulers, which do half of the work.
    default = max(div(System.schedulers_online(), 2), 1)
    threads = Application.get_env(:snakepit, :runtime_threads, default)

    case Options.check([runtime_threads: threads], %{runtime_threads: :threads}) do
      :ok -> {:ok, threads}
      {:error, error} -> {:error, %{error | message: "config :snakepit: #{error.message}"}}
    end
  end
end
