defmodule Snakepit do
  @external_resource "README.md"
  @moduledoc "README.md" |> File.read!() |> String.split("<!-- body -->") |> List.last()

  alias Snakepit.{Config, Error}
  alias Snakepit.GRPC.Client
  alias Snakepit.Pool.Manager

  @options %{
    pool: :name,
    timeout: :timeout,
    queue_timeout: :timeout,
    request_id: :string,
    demand: :positive
  }

  @doc """
  Executes a command on a worker and waits for its result, a map with string keys. What a command
  returns that is no dict arrives as `%{"result" => value}`.

      {:ok, %{"result" => 5}} = Snakepit.execute("compute", %{operation: "add", a: 2, b: 3})

  Options:

    * `:pool` - the pool's name, default `Snakepit.Pool`
    * `:timeout` - ms or `:infinity`; the wait for a worker counts
    * `:queue_timeout` - ms or `:infinity` for the wait for a worker alone
    * `:request_id` - a string that goes with the call; one is made otherwise

  The pool's options are the defaults. Errors are listed in `Snakepit.Error`.
  """
  @spec execute(String.t(), map | keyword, keyword) :: {:ok, map} | {:error, Error.t()}
  def execute(command, args \\ %{}, options \\ []) do
    with {:ok, pool, name, options} <- prepare(options),
         {:error, error} <- Client.execute(pool.native, command, args, options) do
      {:error, %{error | pool: name}}
    end
  end

  @doc """
  Executes a command that streams, and calls `callback` with each chunk, in this process.

      Snakepit.execute_stream("ping_stream", %{count: 3}, fn chunk -> IO.inspect(chunk) end)

  A chunk is a map with string keys: what the Python generator yielded, and `"is_final"`, which is
  true for what it returned. The callback's value is ignored, except `:halt`, which cancels the
  rest. An exception in the callback cancels the stream and goes on.

  Options as for `execute/3`, and `:demand`: how many chunks may be on their way to the callback.
  """
  @spec execute_stream(String.t(), map | keyword, (map -> any), keyword) ::
          :ok | {:error, Error.t()}
  def execute_stream(command, args \\ %{}, callback, options \\ []) do
    with {:ok, pool, name, options} <- prepare(options),
         options = Keyword.put_new(options, :demand, pool.demand),
         {:error, error} <- Client.execute_stream(pool.native, command, args, callback, options) do
      {:error, %{error | pool: name}}
    end
  end

  defp prepare(options) do
    with :ok <- Config.check(options, @options),
         {name, options} = Keyword.pop(options, :pool, Snakepit.Pool),
         {:ok, pool} <- Manager.fetch(name) do
      defaults = [timeout: pool.timeout, queue_timeout: pool.queue_timeout]
      {:ok, pool, name, Keyword.merge(defaults, options)}
    end
  end
end
