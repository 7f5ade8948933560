defmodule Snakepit.Pool.CommandPolicy do
  @moduledoc false
  # Checks each call before it takes a worker, if the pool's adapter has callbacks for that.

  alias Snakepit.{Adapter, Codec, Error}
  alias Snakepit.Config.Type

  defstruct [:adapter, :commands, :validates, :limits]

  @doc "Returns the policy for an adapter's properties; nil if it checks nothing, as most do."
  @spec new(Adapter.facts()) :: %__MODULE__{} | nil
  def new(%{commands: nil, validates: false, limits: false}), do: nil

  def new(%{commands: commands} = facts),
    do: struct(__MODULE__, %{facts | commands: commands && MapSet.new(commands)})

  @doc "Returns the call's options, with the command's timeout if they have none, or the reason for rejection."
  @spec check(%__MODULE__{} | nil, String.t(), map | keyword, keyword) ::
          {:ok, keyword} | {:error, Error.t()}
  def check(nil, _command, _args, options), do: {:ok, options}

  def check(policy, command, args, options) do
    with :ok <- Codec.check_command(command),
         :ok <- supported(policy.commands, command),
         :ok <- valid(policy, command, args),
         {:ok, options} <- limited(policy, command, args, options) do
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

      reject(:unknown_command, "unknown command #{inspect(command)}; the commands are #{known}")
    end
  end

  defp valid(%{validates: false}, _command, _args), do: :ok

  defp valid(policy, command, args) do
    wanted = ":ok or {:error, a string or a Snakepit.Error}"

    with {:ok, _args} <- Codec.args(args),
         {:ok, verdict} <- ask(policy, :validate_command, command, args, wanted, &verdict?/1) do
      case verdict do
        {:error, message} when is_binary(message) -> reject(:invalid_args, message)
        verdict -> verdict
      end
    end
  end

  defp verdict?(:ok), do: true
  defp verdict?({:error, %Error{}}), do: true
  defp verdict?({:error, message}), do: is_binary(message)
  defp verdict?(_other), do: false

  defp limited(%{limits: false}, _command, _args, options), do: {:ok, options}

  defp limited(policy, command, args, options) do
    wanted = "#{Type.expected(:timeout)}, or nil"

    with nil <- options[:timeout],
         {:ok, _args} <- Codec.args(args),
         {:ok, timeout} <- ask(policy, :command_timeout, command, args, wanted, &timeout?/1) do
      {:ok, if(timeout, do: Keyword.put(options, :timeout, timeout), else: options)}
    else
      {:error, error} -> {:error, error}
      _given -> {:ok, options}
    end
  end

  defp timeout?(nil), do: true
  defp timeout?(timeout), do: Type.check(:timeout, timeout) == true

  # An adapter that raises must not end its caller.
  defp ask(policy, callback, command, args, wanted, valid?) do
    with {:error, message} <-
           Adapter.call(policy.adapter, callback, [command, args], wanted, valid?),
         do: reject(:adapter_error, message)
  end

  defp reject(reason, message), do: {:error, %Error{reason: reason, message: message}}
end
