defmodule Snakepit.Test.Environment do
  @moduledoc false
  # Variables of the environment for one test, which runs alone.

  @doc "Sets variables, or unsets those whose value is nil, until the test has ended."
  def put(variables) do
    before = for {name, _value} <- variables, do: {name, System.get_env(name)}
    ExUnit.Callbacks.on_exit(fn -> System.put_env(before) end)
    System.put_env(variables)
  end
end
