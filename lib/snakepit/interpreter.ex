defmodule Snakepit.Interpreter do
  @moduledoc false
  # Runs Python code in a pool of `snakepit_bridge:Interpreter`, as a stream of what it prints that
  # ends with its value.

  alias Snakepit.Config.Options
  alias Snakepit.Error

  @command "snakepit.eval"

  @how "Snakepit.eval/3 runs code only in a pool that was started for it, with " <>
         "adapter_args: [class: \"snakepit_bridge:Interpreter\"]"

  @doc "See `Snakepit.eval/3`. `execute` is `Snakepit.run_stream/4`."
  def eval(code, bindings, options, execute) when is_binary(code) do
    with :ok <- Options.check(options, options()) do
      {own, options} = Keyword.split(options, [:on_output])
      args = %{code: code, bindings: Map.new(bindings)}
      run(Keyword.get(own, :on_output, &IO.write/1), &execute.(@command, args, &1, options))
    end
  end

  def eval(code, _bindings, _options, _execute),
    do: raise(ArgumentError, "expected Python code as a string, got: #{inspect(code)}")

  defp options,
    do: Map.merge(Options.stream(), %{pool: :pool, retry: :retry, on_output: :callback})

  defp run(on_output, execute) do
    on_chunk = fn chunk ->
      with %{"output" => text} <- chunk, do: on_output.(text)
      :ok
    end

    case execute.(on_chunk) do
      {:ok, %{"value" => value}} ->
        {:ok, value}

      {:ok, _none} ->
        message = "the code has ended without a value: the pool runs another #{@command}"
        {:error, %Error{reason: :invalid_result, command: @command, message: message}}

      {:error, %Error{reason: :unknown_command} = error} ->
        {:error, %{error | message: @how}}

      {:error, %Error{reason: :streaming_not_supported} = error} ->
        {:error, %{error | message: "Snakepit.eval/3 needs a stream: " <> error.message}}

      failed ->
        failed
    end
  end
end
