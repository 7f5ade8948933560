defmodule Snakepit.Config.Hidden do
  @moduledoc false
  # The keyword arguments of a class, `adapter_args: [init: ...]`, and the option `:token`. This struct hides them in
  # inspected terms, such as crash reports and child specifications of supervisors.

  defstruct [:value]

  @doc "Hides the `:init` of a pool's `adapter_args` and its `:token`, whatever the options are."
  def wrap(options) do
    if Keyword.keyword?(options), do: Enum.map(options, &wrap_option/1), else: options
  end

  defp wrap_option({:adapter_args, args}) when is_list(args),
    do: {:adapter_args, if(Keyword.keyword?(args), do: wrap_init(args), else: args)}

  defp wrap_option({:token, token}) when not is_struct(token, __MODULE__),
    do: {:token, %__MODULE__{value: token}}

  defp wrap_option(option), do: option

  @doc "Returns the original `adapter_args`."
  def unwrap(adapter_args) do
    for {key, value} <- adapter_args do
      case value do
        %__MODULE__{value: given} -> {key, given}
        other -> {key, other}
      end
    end
  end

  @doc "Like `wrap/1`, for the `adapter_args` themselves."
  def wrap_init(adapter_args) do
    for {key, value} <- adapter_args do
      if key == :init and not is_struct(value, __MODULE__),
        do: {key, %__MODULE__{value: value}},
        else: {key, value}
    end
  end

  defimpl Inspect do
    def inspect(_hidden, _options), do: "#Snakepit.Config.Hidden<...>"
  end
end
