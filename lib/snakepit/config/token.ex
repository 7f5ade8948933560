defmodule Snakepit.Config.Token do
  @moduledoc false
  # The option `:token` of a remote pool: a string, or a function that returns one, which is asked at each connect.
  # No message and no log has its value.

  alias Snakepit.Config.Hidden
  alias Snakepit.Error.Cause

  @type t :: nil | %Hidden{value: String.t() | {module, atom, [term]}}

  @doc "Whether it is a token, or names a function."
  @spec valid?(term) :: boolean
  def valid?(%Hidden{value: value}), do: valid?(value)

  def valid?({module, name, arguments}) do
    is_atom(module) and is_atom(name) and is_list(arguments) and not List.improper?(arguments) and
      Code.ensure_loaded?(module) and function_exported?(module, name, length(arguments))
  end

  def valid?(value), do: token?(value)

  # What a header may carry.
  defp token?(value), do: is_binary(value) and value =~ ~r/\A[\x21-\x7e]{1,4096}\z/

  @doc "Hides a valid option in inspected terms."
  @spec new(term) :: t
  def new(nil), do: nil
  def new(%Hidden{} = hidden), do: hidden
  def new(value), do: %Hidden{value: value}

  @doc "Whether `fetch/1` calls a function, which may take time."
  @spec function?(t) :: boolean
  def function?(token), do: match?(%Hidden{value: {_module, _name, _arguments}}, token)

  @doc "Returns the token, or nil if the pool has none."
  @spec fetch(t) :: {:ok, String.t() | nil} | {:error, String.t()}
  def fetch(nil), do: {:ok, nil}

  def fetch(%Hidden{value: {module, name, arguments}}) do
    token = apply(module, name, arguments)

    if token?(token),
      do: {:ok, token},
      else:
        wrong(
          module,
          name,
          arguments,
          "returned something else than a token, a string of visible ASCII"
        )
  catch
    kind, reason ->
      wrong(module, name, arguments, Cause.caught(kind, reason, __STACKTRACE__))
  end

  def fetch(%Hidden{value: token}), do: {:ok, token}

  defp wrong(module, name, arguments, what) do
    function = "#{inspect(module)}.#{name}/#{length(arguments)}"
    {:error, "#{function} of the option :token #{what}"}
  end
end
