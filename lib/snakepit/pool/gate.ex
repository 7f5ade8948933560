defmodule Snakepit.Pool.Gate do
  @moduledoc false
  # What each call has to pass before it takes a worker, where the adapter has such a thing to say.

  alias Snakepit.{Adapter, Error}

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
    with :ok <- supported(gate.commands, command),
         :ok <- valid(gate, command, args) do
      {:ok, limited(gate, command, args, options)}
    end
  end

  defp supported(nil, _command), do: :ok

  defp supported(commands, command) do
    if MapSet.member?(commands, command) do
      :ok
    else
      known = commands |> Enum.sort() |> Enum.join(", ")

      refuse(
        :unknown_command,
        command,
        "there is no command #{inspect(command)}; there are #{known}"
      )
    end
  end

  defp valid(%{validates: false}, _command, _args), do: :ok

  defp valid(gate, command, args) do
    case gate.adapter.validate_command(command, args) do
      :ok -> :ok
      {:error, %Error{} = error} -> {:error, %{error | command: command}}
      {:error, message} -> refuse(:invalid_args, command, message)
    end
  end

  defp refuse(reason, command, message),
    do: {:error, %Error{reason: reason, command: command, message: message}}

  defp limited(%{limits: false}, _command, _args, options), do: options

  defp limited(gate, command, args, options) do
    timeout = options[:timeout] || gate.adapter.command_timeout(command, args)
    if timeout, do: Keyword.put(options, :timeout, timeout), else: options
  end
end
