defmodule Snakepit.Adapter do
  @moduledoc """
  Defines how a pool starts its workers, and what it checks before it sends them a call.

      defmodule MyApp.NodeAdapter do
        @behaviour Snakepit.Adapter

        @impl true
        def executable_path, do: "node"

        @impl true
        def script_path, do: {:my_app, "priv/worker.js"}
      end

      {Snakepit.Pool, name: MyApp.Node, adapter: MyApp.NodeAdapter}

  Snakepit has two adapters: `Snakepit.Adapters.GRPCPython` and, over stdin and stdout,
  `Snakepit.Adapters.GenericPythonV2`. [Writing adapters](adapters.md) describes what a worker must do.

  | callback | |
  |---|---|
  | `c:executable_path/0` | required |
  | `c:script_path/0`, `c:script_args/0` | optional: the arguments of the executable |
  | `c:command_line/1` | optional: replaces these three, for command lines that depend on the pool's options |
  | `c:validate_options/1` | optional: a check of the pool's options when it starts |
  | `c:uses_grpc?/0` | optional: whether workers use gRPC, by default not |
  | `c:get_port/0` | optional, for gRPC workers: the first TCP port to try |
  | `c:supported_commands/0` | optional: the available commands |
  | `c:validate_command/2` | optional: a check of each call's arguments |
  | `c:command_timeout/2` | optional: how long a command may take |
  | `c:init_grpc_connection/1`, `c:grpc_execute/4`, `c:grpc_execute_stream/5` | optional: call one worker by its address, without a pool |
  """

  alias Snakepit.Config.{Env, Hidden, Paths}
  alias Snakepit.Error
  alias Snakepit.Error.Cause

  @typedoc """
  What the pool knows about a worker before it starts:

    * `:id` - the worker's name in logs and errors
    * `:slot` - its number in the pool, from 0 on, which its successors keep
    * `:listen` - the address on which a gRPC worker must listen, otherwise `nil`
    * `:options` - all options of the pool, with the `:env` of this slot
  """
  @type worker :: %{
          id: String.t(),
          slot: non_neg_integer,
          listen: String.t() | nil,
          options: map
        }

  @typedoc """
  An executable, its arguments, and environment variables; `nil` unsets one. A fourth element is a
  message that the worker reads first from its standard input, after its length in 4 bytes,
  big-endian: for secrets, or for data larger than arguments may be.
  """
  @type command_line ::
          {Path.t(), [String.t()], environment}
          | {Path.t(), [String.t()], environment, input :: binary | nil}

  @typep environment ::
           [{String.t(), String.t() | nil}] | %{String.t() => String.t() | nil}

  @typedoc """
  A path within an application, `{:my_app, "priv/worker.js"}`, or any other path. A relative path
  starts from the pool's option `:root`, by default the directory of the Mix project.
  """
  @type path :: Path.t() | {Application.app(), Path.t()}

  @doc "Returns the executable: a path, or a name to look up in `PATH`."
  @doc since: "0.1.0"
  @callback executable_path() :: path

  @doc "Returns the script that the executable runs: its first argument."
  @doc since: "0.1.0"
  @callback script_path() :: path

  @doc "Returns the further arguments, strings without NUL."
  @doc since: "0.1.0"
  @callback script_args() :: [String.t()]

  @doc """
  Returns the whole command line of one worker, or a message that says why there is none and what
  to do. It replaces `c:executable_path/0`, `c:script_path/0` and `c:script_args/0`.
  """
  @doc since: "0.1.0"
  @callback command_line(worker) :: {:ok, command_line} | {:error, String.t()}

  @doc """
  Checks all options of the pool when it starts, especially `:adapter_args`, which only the
  adapter can check. The message becomes that of the error `:invalid_options` which the start
  returns.
  """
  @doc since: "0.1.0"
  @callback validate_options(options :: map) :: :ok | {:error, String.t()}

  @doc "Returns whether workers serve `proto/snakepit.proto`. By default they use stdin and stdout."
  @doc since: "0.1.0"
  @callback uses_grpc?() :: boolean

  @doc "Returns the first TCP port that workers try, in place of the pool's `:base_port`; 0 means any free port."
  @doc since: "0.1.0"
  @callback get_port() :: :inet.port_number()

  @doc "Returns the available commands. Any other command fails with `:unknown_command` before the call takes a worker."
  @doc since: "0.1.0"
  @callback supported_commands() :: [String.t()]

  @doc """
  Checks a call before it takes a worker. The caller gets the error, or for a message an error
  with the reason `:invalid_args`.
  """
  @doc since: "0.1.0"
  @callback validate_command(command :: String.t(), args :: map | keyword) ::
              :ok | {:error, String.t() | Error.t()}

  @doc "Returns how long a command may take if the call does not set a timeout; `nil` means the pool's `:timeout`."
  @doc since: "0.1.0"
  @callback command_timeout(command :: String.t(), args :: map | keyword) :: timeout | nil

  @doc """
  Connects to one worker without a pool: to a port of 127.0.0.1, or to an address. For tests and
  for inspecting a worker; a pool's calls do not use it.
  """
  @doc since: "0.1.0"
  @callback init_grpc_connection(:inet.port_number() | String.t()) ::
              {:ok, connection :: term} | {:error, Error.t()}

  @doc "Executes a command over such a connection."
  @doc since: "0.1.0"
  @callback grpc_execute(connection :: term, String.t(), map | keyword, timeout) ::
              {:ok, map} | {:error, Error.t()}

  @doc "Executes a streaming command over such a connection."
  @doc since: "0.1.0"
  @callback grpc_execute_stream(
              connection :: term,
              String.t(),
              map | keyword,
              (map -> any),
              timeout
            ) :: :ok | {:error, Error.t()}

  @optional_callbacks script_path: 0,
                      script_args: 0,
                      command_line: 1,
                      validate_options: 1,
                      uses_grpc?: 0,
                      get_port: 0,
                      supported_commands: 0,
                      validate_command: 2,
                      command_timeout: 2,
                      init_grpc_connection: 1,
                      grpc_execute: 4,
                      grpc_execute_stream: 5

  @doc false
  def adapter?(module) do
    is_atom(module) and
      (exports?(module, :executable_path, 0) or exports?(module, :command_line, 1))
  end

  @typedoc false
  # The properties of an adapter, asked once when a pool starts.
  @type facts :: %{
          adapter: module,
          grpc?: boolean,
          port: :inet.port_number() | nil,
          commands: [String.t()] | nil,
          validates: boolean,
          limits: boolean
        }

  @doc false
  @spec facts(module) :: {:ok, facts} | {:error, Error.t()}
  def facts(adapter) do
    ask = fn callback, default, wanted, valid? ->
      if exports?(adapter, callback, 0),
        do: call(adapter, callback, [], wanted, valid?),
        else: {:ok, default}
    end

    with {:ok, grpc?} <- ask.(:uses_grpc?, false, "true or false", &is_boolean/1),
         {:ok, port} <- ask.(:get_port, nil, "a port, 0 to 65535", &(&1 in 0..65_535)),
         {:ok, commands} <- ask.(:supported_commands, nil, "a list of strings", &strings?/1) do
      validates = exports?(adapter, :validate_command, 2)
      limits = exports?(adapter, :command_timeout, 2)
      facts = %{adapter: adapter, grpc?: grpc?, port: port, commands: commands}
      {:ok, Map.merge(facts, %{validates: validates, limits: limits})}
    else
      {:error, message} -> {:error, %Error{reason: :adapter_error, message: message}}
    end
  end

  @doc false
  # The message contains no value of the environment.
  @spec validate_options(module, map) :: :ok | {:error, Error.t()}
  def validate_options(adapter, options) do
    # Those of any other slot differ only in their values.
    {:ok, env} = Env.of_slot(options.env, 0)
    options = %{options | env: env}
    wanted = ":ok or {:error, a string}"
    valid? = &(&1 == :ok or match?({:error, message} when is_binary(message), &1))

    with true <- exports?(adapter, :validate_options, 1),
         args = [given(options)],
         {:ok, verdict} <- call(adapter, :validate_options, args, wanted, valid?, env) do
      with {:error, message} <- verdict,
           do: {:error, %Error{reason: :invalid_options, message: message}}
    else
      false -> :ok
      {:error, message} -> {:error, %Error{reason: :adapter_error, message: message}}
    end
  end

  @doc false
  # Calls a callback and checks its result. The message contains no value of `env`.
  @spec call(module, atom, [term], String.t(), (term -> as_boolean(term)), Env.t()) ::
          {:ok, term} | {:error, String.t()}
  def call(adapter, callback, args, wanted, valid?, env \\ %Env{}) do
    value = apply(adapter, callback, args)

    if valid?.(value),
      do: {:ok, value},
      else: wrong(adapter, callback, args, "returned #{shown(value)}; expected #{wanted}", env)
  catch
    kind, reason ->
      what = Cause.caught(kind, reason, __STACKTRACE__)
      wrong(adapter, callback, args, what, env)
  end

  defp wrong(adapter, callback, args, what, env),
    do: {:error, Env.redact(env, "#{inspect(adapter)}.#{callback}/#{length(args)} #{what}")}

  defp shown(value), do: inspect(value, limit: 20, printable_limit: 200, binaries: :as_strings)

  # The options as adapters receive them, without the wrappers that hide values from logs.
  defp given(options) do
    args = Hidden.unwrap(options.adapter_args)
    %{options | env: Map.new(options.env), adapter_args: args}
  end

  @doc false
  # The environment is a map by name, in which nil unsets a variable. The last element is the
  # input for its standard input, or nil.
  @spec command(module, worker) ::
          {:ok, {Path.t(), [String.t()], map, binary | nil}} | {:error, String.t()}
  def command(adapter, %{options: %{env: env}} = worker) do
    if exports?(adapter, :command_line, 1),
      do: whole_command(adapter, %{worker | options: given(worker.options)}, env),
      else: simple_command(adapter, worker.options.root)
  end

  defp whole_command(adapter, worker, env) do
    wanted = "{:ok, {executable, arguments, environment}} or {:error, a string}"
    # Names only the invalid part, because the command line may contain values of the environment.
    valid? = &match?({answer, _} when answer in [:ok, :error], &1)

    case call(adapter, :command_line, [worker], wanted, valid?, env) do
      {:ok, {:error, message}} when is_binary(message) ->
        {:error, Cause.text(message)}

      {:ok, {:ok, command}} when tuple_size(command) in 3..4 ->
        {executable, args, own, input} =
          with {executable, args, own} <- command, do: {executable, args, own, nil}

        case command_problem(executable, args, own, input) do
          nil -> {:ok, {executable, args, Map.new(own), input}}
          problem -> wrong(adapter, :command_line, [worker], "returned #{problem}", env)
        end

      {:ok, _other} ->
        wrong(
          adapter,
          :command_line,
          [worker],
          "returned an invalid value; expected #{wanted}",
          env
        )

      {:error, message} ->
        {:error, message}
    end
  end

  defp command_problem(executable, args, own, input) do
    cond do
      not (string?(executable) and executable != "") ->
        "the executable #{shown(executable)}; expected a path, a string"

      not is_list(args) or List.improper?(args) ->
        "the arguments #{shown(args)}; expected a list of strings"

      wrong = Enum.find_value(args, &(not string?(&1) and {&1})) ->
        "the argument #{wrong |> elem(0) |> shown()}; expected a string without NUL"

      problem = Env.problem(own) ->
        "an environment with #{problem}"

      not (is_binary(input) or input == nil) ->
        "an input that is neither a binary nor nil"

      true ->
        nil
    end
  end

  defp simple_command(adapter, root) do
    path = "a path: a string, or {:my_app, a string}"
    list = "a list of strings"

    with {:ok, name} <- call(adapter, :executable_path, [], path, &path?/1),
         {:ok, script} <- optional(adapter, :script_path, path, &path?/1),
         {:ok, args} <- optional(adapter, :script_args, list, &strings?/1) do
      with {:ok, executable} <- Paths.find(name, root),
           {:ok, script} <- script(script, root) do
        {:ok, {executable, script ++ List.wrap(args), %{}, nil}}
      else
        {:error, why} -> {:error, "#{inspect(adapter)} cannot be executed: #{why}"}
      end
    end
  end

  defp script(nil, _root), do: {:ok, []}
  defp script(path, root), do: with({:ok, path} <- Paths.expand(path, root), do: {:ok, [path]})

  defp optional(adapter, callback, wanted, valid?) do
    if exports?(adapter, callback, 0),
      do: call(adapter, callback, [], wanted, valid?),
      else: {:ok, nil}
  end

  defp path?({app, path}), do: is_atom(app) and path?(path)
  defp path?(value), do: string?(value) and value != ""

  defp strings?(value),
    do: is_list(value) and not List.improper?(value) and Enum.all?(value, &string?/1)

  defp string?(value), do: is_binary(value) and not String.contains?(value, <<0>>)

  @doc false
  def exports?(adapter, callback, arity) do
    Code.ensure_loaded?(adapter) and function_exported?(adapter, callback, arity)
  end
end
