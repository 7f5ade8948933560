defmodule Snakepit.TwoWay.Tools do
  @moduledoc false
  # The tools of a call: the functions that its command may ask, and what their tasks have of the caller.

  alias Snakepit.Error.Cause
  alias Snakepit.Tracing
  alias Snakepit.TwoWay.Holding

  @enforce_keys [
    :functions,
    :timeout,
    :about,
    :native,
    :telemetry,
    :caller,
    :callers,
    :leader,
    :logger,
    :trace,
    :holding
  ]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          functions: %{String.t() => (map -> term)},
          timeout: timeout,
          # The call, for events and the log.
          about: map,
          # The pool's native side, which counts asks; nil where there is none.
          native: reference | nil,
          telemetry: boolean,
          caller: pid,
          callers: [pid],
          leader: pid,
          logger: keyword,
          trace: term,
          # The calls that wait for this one.
          holding: [reference]
        }

  @doc "Replaces the tools in a call's complete options, if it has any; those of the pool come with them."
  @spec bind(map, map, term, String.t()) :: map
  def bind(%{tools: nil} = options, _pool, _name, _command), do: options

  def bind(%{tools: given} = options, pool, name, command) do
    functions = Map.merge(functions(pool.call_options.tools), functions(given))
    tools = if functions != %{}, do: new(functions, options, pool, name, command)
    %{options | tools: tools}
  end

  defp new(functions, options, pool, name, command) do
    %__MODULE__{
      functions: functions,
      timeout: options.tool_timeout,
      about: %{
        pool: name,
        command: command,
        request_id: options.request_id,
        session_id: options.session_id
      },
      native: pool[:native],
      telemetry: pool.telemetry,
      caller: self(),
      callers: [self() | Process.get(:"$callers", [])],
      leader: Process.group_leader(),
      logger: Logger.metadata(),
      trace: Tracing.current(),
      holding: Holding.get()
    }
  end

  defp functions(nil), do: %{}

  defp functions(tools),
    do: Map.new(tools, fn {name, function} -> {to_string(name), function} end)

  @doc """
  Gives the calling process, in which a tool of the call runs, what it has of the caller. `asks` is the process that has
  started it, and `holding` stands for the call's place.
  """
  @spec adopt(t, pid, [reference]) :: any
  def adopt(tools, asks, holding) do
    Holding.put(asks, holding ++ tools.holding)
    Process.put(:"$callers", tools.callers)
    Logger.reset_metadata(tools.logger)
    Tracing.attach(tools.trace)
  end

  @doc "Runs a tool. Returns how to answer: `{:ok, value}`, or `{:error, failure}`."
  @spec run(t, String.t(), map) ::
          {:ok, term} | {:error, map} | {:raised, map, {atom, term, list}}
  def run(tools, name, args) do
    case Map.fetch(tools.functions, name) do
      {:ok, function} -> call(function, args)
      :error -> {:error, failure("unknown_tool", "the call has no tool #{inspect(name)}")}
    end
  end

  defp call(function, args) do
    function.(args)
  catch
    kind, reason ->
      {:raised, raised(kind, reason, __STACKTRACE__), {kind, reason, __STACKTRACE__}}
  else
    {:ok, value} -> {:ok, value}
    {:error, reason} -> {:error, described(reason)}
    value -> {:ok, value}
  end

  defp raised(:error, reason, stacktrace) do
    exception = Exception.normalize(:error, reason, stacktrace)
    exception("exception", exception)
  end

  defp raised(:throw, value, _stacktrace), do: failure("throw", inspect(value))
  defp raised(:exit, reason, _stacktrace), do: failure("exit", Exception.format_exit(reason))

  # What a tool has returned as its error.
  defp described(%Snakepit.Error{} = error),
    do: %{of_error(error) | data: error.details}

  defp described(exception) when is_exception(exception), do: exception("exception", exception)

  defp described(code) when is_atom(code) and code not in [nil, true, false],
    do: failure(to_string(code), "")

  defp described(message) when is_binary(message), do: failure("error", message)
  defp described({code, message}) when is_binary(message), do: described({code, message, nil})

  defp described({code, message, data})
       when (is_atom(code) or is_binary(code)) and is_binary(message),
       do: %{failure(to_string(code), message) | data: data}

  defp described(other), do: %{failure("error", "") | data: other}

  @doc "The failure that an exception is."
  @spec exception(String.t(), Exception.t()) :: map
  def exception(code, %module{} = exception),
    do: %{failure(code, Exception.message(exception)) | type: inspect(module)}

  @doc "The failure that an error is, without its details."
  @spec of_error(Snakepit.Error.t()) :: map
  def of_error(%Snakepit.Error{reason: reason, message: message}),
    do: %{failure(to_string(reason), message || "") | type: "Snakepit.Error"}

  @doc "A failure as Python gets it, whose texts may be those of users."
  @spec failure(String.t(), term) :: map
  def failure(code, message),
    do: %{code: Cause.text(code), type: "", message: Cause.text(message), data: nil}
end
