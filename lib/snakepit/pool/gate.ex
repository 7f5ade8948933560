defmodule Snakepit.Pool.Gate do
  @moduledoc false
  # What each call has to pass before it takes a worker, where the adapter has such a thing to say.

  alias Snakepit.{Adapter, Config, Error}
  alias Snakepit.GRPC.Client
  alias Snakepit.Pool.Message

  defstruct [:adapter, :commands, :validates, :limits]

  @doc "The gate of an adapter's pools; nil where there is nothing to pass, as a rule."
  def new(adapter) do
    commands = Adapter.optional(adapter, :supported_commands, [], nil)
    validates = Adapter.exports?(adapter, :validate_command, 2)
    limits = Adapter.exports?(adapter, :command_timeout, 2)

    if commands || validates || limits,
      do: %__MODULE__{
        adapter: adapter,
        commands: commands && MapSet.new(commands),
        validates: validates,
        limits: limits
      }
  end

  @doc "The call's options, with the command's timeout if they have none, or why it is refused."
  @spec pass(%__MODULE__{} | nil, String.t(), map | keyword, keyword) ::
          {:ok, keyword} | {:error, Error.t()}
  def pass(nil, _command, _args, options), do: {:ok, options}

  def pass(gate, command, args, options) do
    with :ok <- Client.check_command(command),
         :ok <- supported(gate.commands, command),
         :ok <- valid(gate, command, args),
         {:ok, options} <- limited(gate, command, args, options) do
      {:ok, options}
    else
      {:error, error} -> {:error, %{error | command: command}}
    end
  end

  defp supported(nil, _command), do: :ok

  defp supported(commands, command) do
    if MapSet.member?(commands, command) do
      :ok
    else
      known = commands |> Enum.sort() |> Enum.join(", ")

      refuse(:unknown_command, "there is no command #{inspect(command)}; there are #{known}")
    end
  end

  defp valid(%{validates: false}, _command, _args), do: :ok

  defp valid(gate, command, args) do
    with :ok <- Message.check_args(args) do
      case gate.adapter.validate_command(command, args) do
        :ok -> :ok
        {:error, %Error{} = error} -> {:error, error}
        {:error, message} when is_binary(message) -> refuse(:invalid_args, message)
        other -> nonsense(gate, "validate_command/2", ":ok or {:error, message}", other)
      end
    end
  end

  defp refuse(reason, message), do: {:error, %Error{reason: reason, message: message}}

  defp nonsense(gate, callback, wanted, returned) do
    refuse(
      :internal_error,
      "#{inspect(gate.adapter)}.#{callback} returned #{inspect(returned)}, not #{wanted}"
    )
  end

  defp limited(%{limits: false}, _command, _args, options), do: {:ok, options}

  defp limited(gate, command, args, options) do
    with nil <- options[:timeout],
         :ok <- Message.check_args(args),
         timeout when timeout != nil <- gate.adapter.command_timeout(command, args) do
      case Config.check([timeout: timeout], %{timeout: :timeout}) do
        :ok ->
          {:ok, Keyword.put(options, :timeout, timeout)}

        {:error, _error} ->
          wanted = "#{Config.wanted(:timeout)}, or nil"
          nonsense(gate, "command_timeout/2", wanted, timeout)
      end
    else
      {:error, error} -> {:error, error}
      _given_or_none -> {:ok, options}
    end
  end
end
