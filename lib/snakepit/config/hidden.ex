defmodule Snakepit.Config.Hidden do
  @moduledoc false
  # The keyword arguments of a class, `adapter_args: [init: ...]`. This struct hides them in
  # inspected terms, such as crash reports and child specifications of supervisors.

  defstruct [:value]

  @doc "Hides the `:init` of a pool's `adapter_args`, whatever the options are."
  def wrap(options) when is_list(options) do
    if Keyword.keyword?(options) and Keyword.keyword?(options[:adapter_args] || :none),
      do: Keyword.update!(options, :adapter_args, &wrap_init/1),
      else: options
  end

  def wrap(options), do: options

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
