defmodule Snakepit.Relay do
  @moduledoc false
  # Calls to a pool on another node, and the choice between the nodes that have it.
  #
  #     caller                relay, here                   relay, there (`serve/2`)
  #       ── start ──▶  spawn_request, linked ═════▶  makes the call as any caller on its node
  #       ── ask ──▶ ── {:ask, chunks} ───────────▶  asks the pool for more chunks
  #       ◀── chunks, progress ── ◀═══════════════  passes them on
  #       ◀── result ── ◀══════════════════════════  exits with it
  #
  # The two relays of a call are linked. The one here monitors the caller: when that ends or cancels, or the link is lost
  # with the other node, the one there is ended by the link's exit signal, and its pool cancels the call as that of any
  # caller that has died. The result is the reason of an exit signal, too: so the relay here gets either the result or
  # the loss of the link, and never both.
  #
  # A stream's chunks are bounded by their number and bytes as on one node: the pool counts those as in transit that the
  # consumer here has not asked to replace.
  #
  # Options that a call does not have are those of the pool on its node, and the pool repeats the call there
  # (`retry:`). Only after `:node_unavailable` is it repeated from here.
  @behaviour Snakepit.Transport

  alias Snakepit.{
    Call,
    ChunkStream,
    Error,
    Execution,
    Overdue,
    Progress,
    Structs,
    Telemetry,
    Tracing,
    TwoWay
  }

  alias Snakepit.Config.{Options, Type}
  alias Snakepit.Error.Cause
  alias Snakepit.Pool.{Group, Registry}
  alias Snakepit.TwoWay.{Answer, Asks}

  @version Group.version()
  # Tags the messages and exit reasons of relays.
  @tag :snakepit_relay
  # How long to wait for the end of a relay and of a call's tools, in ms.
  @grace 1_000
  # How long to wait before the next attempt to send on a busy connection, in ms.
  @busy 10
  @max_chunks 4_294_967_295
  # How long to wait for the capacities of nodes, in ms.
  @patience 5_000

  # Options that are those of the pool, on its node, unless the call has them.
  @of_pool Options.defaults(timeout: nil, queue_timeout: nil)

  # Options that have no meaning there.
  @here [:on_progress, :tools, :tool_timeout]

  @unknown "it runs no Snakepit, or a version without calls between nodes"

  ## The choice of a node

  @doc "Where the calls of a `:pool` option go; `options` are those of the call."
  @spec target(Snakepit.pool(), keyword) :: Snakepit.Transport.target()
  def target(pool, options),
    do: %{fetch: fn -> fetch(pool, options) end, elsewhere: match?({_name, :any}, pool)}

  defp fetch(name, _options) when is_atom(name),
    do: with({:ok, pool} <- Registry.fetch(name), do: {:ok, name, pool})

  defp fetch(pool, options) do
    with :ok <- check_session(pool, options),
         {:ok, resolved} <- resolve(pool, options[:session_id]) do
      if is_atom(resolved),
        do: fetch(resolved, options),
        else: {:ok, resolved, remote(resolved)}
    end
  end

  # A strict session must not begin anew without an error, as it would where another node gets its calls.
  defp check_session({name, :any}, options) do
    if options[:session_id] != nil and Keyword.get(options, :affinity, :strict) == :strict do
      message =
        "a session lives on one node: name it, pool: {#{inspect(name)}, node}, or pass affinity: :prefer if its state is " <>
          "only a cache; with :any the session begins anew on another node when the nodes of the pool change"

      {:error, %Error{reason: :invalid_options, pool: name, message: message}}
    else
      :ok
    end
  end

  defp check_session(_pool, _options), do: :ok

  @doc "Replaces `:any` by a node, and a pool of this node by its name."
  @spec resolve(Snakepit.pool(), String.t() | nil) ::
          {:ok, Snakepit.pool()} | {:error, Error.t()}
  def resolve(pool, session_id \\ nil)

  def resolve({name, :any}, session_id) when is_atom(name),
    do: with({:ok, node} <- Group.choose(name, session_id), do: resolve({name, node}, session_id))

  def resolve({name, node}, _session_id) when node == node(), do: {:ok, name}
  def resolve(pool, _session_id), do: {:ok, pool}

  defp remote({_name, node} = pool) do
    Map.merge(facts(), %{
      transport: __MODULE__,
      name: pool,
      node: node,
      native: nil,
      manager: nil,
      fallback: nil,
      command_policy: nil,
      retry: %{},
      call_options: @of_pool
    })
  end

  # Found once, because looking for a module that is not there takes longer than a call.
  defp facts do
    with nil <- :persistent_term.get(__MODULE__, nil) do
      facts = %{telemetry: Telemetry.available?(), tracing: Tracing.available?()}
      :persistent_term.put(__MODULE__, facts)
      facts
    end
  end

  ## Questions about a pool

  @doc """
  Calls a function with the name of a pool and further arguments, on the pool's node. `{name, :any}` has no one node.
  """
  @spec ask(Snakepit.pool(), module, atom, [term]) :: term
  def ask(pool, module, function, args \\ [])

  def ask(name, module, function, args) when is_atom(name),
    do: apply(module, function, [name | args])

  def ask(pool, module, function, args) do
    cond do
      Type.check(:pool, pool) != true -> Registry.fetch(pool)
      elem(pool, 1) == node() -> ask(elem(pool, 0), module, function, args)
      elem(pool, 1) == :any -> {:error, no_node(pool)}
      true -> ask_node(pool, module, function, args)
    end
  end

  defp ask_node({name, node} = pool, module, function, args) do
    with {:error, %Error{} = error} <- :erpc.call(node, module, function, [name | args]),
         do: {:error, %{error | pool: pool}}
  rescue
    error in ErlangError ->
      case error.original do
        {:erpc, :noconnection} -> {:error, unavailable(:noconnection, pool)}
        {:exception, :undef, [{^module, _, _, _} | _]} -> {:error, incompatible(@unknown, pool)}
        {:exception, reason, stacktrace} -> {:error, ended({reason, stacktrace}, pool)}
        _other -> reraise error, __STACKTRACE__
      end
  end

  defp no_node({name, :any}) do
    message =
      "expected one pool, got {#{inspect(name)}, :any}: name a node, {#{inspect(name)}, node}; Snakepit.nodes/1 lists " <>
        "those that run it"

    %Error{reason: :invalid_options, pool: name, message: message}
  end

  @doc "How many calls of a command a pool can run at once: with `:any`, those of all nodes that calls may be sent to."
  @spec capacity(Snakepit.pool(), String.t()) :: {:ok, pos_integer} | {:error, Error.t()}
  def capacity({name, :any} = pool, command) do
    with {:ok, {_name, _node} = chosen} <- resolve(pool) do
      answers =
        :erpc.multicall(Group.nodes(name), Registry, :capacity, [name, command], @patience)

      case for {:ok, {:ok, capacity}} <- answers, do: capacity do
        [] -> capacity(chosen, command)
        capacities -> {:ok, Enum.sum(capacities)}
      end
    else
      {:ok, name} -> capacity(name, command)
      {:error, error} -> {:error, error}
    end
  end

  def capacity(pool, command), do: ask(pool, Registry, :capacity, [command])

  ## Calls, here

  @impl true
  def request_event, do: nil

  @impl true
  def run(pool, command, args, options) do
    ref = make_ref()
    # As a call from outside: see `Snakepit.Stdio.Transport`.
    started = __MODULE__.start(pool, ref, command, args, options)
    await(ref, started, options)
  end

  defp await(_ref, {:done, result}, _options), do: result

  defp await(ref, {:wait, pending}, options) do
    receive do
      {^ref, _monitor, :process, _relay, reason} ->
        await(ref, received(pending, {:down, reason}), options)

      {:snakepit_progress, ^ref, reported} ->
        about = %{command: pending.command, request_id: options.request_id}
        cancel = fn -> cancel(pending, ref) end
        Progress.pass_on(options.on_progress, ref, reported, about, cancel)
        await(ref, {:wait, pending}, options)
    after
      Overdue.left(pending.until) ->
        given_up = give_up(pending, ref, options)
        Progress.flush(ref)
        await(ref, given_up, options)
    end
  end

  @impl true
  def start(pool, tag, command, args, options) do
    case request(:call, command, args, options) do
      {:ok, request} ->
        # With the monitor from its first moment: it may have ended by the next.
        {relay, monitor} = begin(pool, request, %{progress: tag}, monitor: [tag: tag])
        asks = with %{asks: asks} <- request.tools, do: asks

        {:wait,
         %{
           handle: nil,
           relay: relay,
           monitor: monitor,
           pool: pool.name,
           command: command,
           asks: asks,
           # After the relay has enforced it: that is held up while the connection to the node stands still.
           until: Overdue.until(options, pool.name)
         }}

      {:error, error} ->
        {:done, {:error, error, nil}}
    end
  end

  @impl true
  def received(pending, {:down, reason}) do
    if pending.asks, do: Asks.stop(pending.asks, @grace)
    {:done, reply(reason, pending)}
  end

  defp reply({:shutdown, {@tag, reply}}, _pending), do: reply

  defp reply(reason, pending) do
    message = "the process that waited for the other node has ended: #{Cause.exited(reason)}"
    error = %Error{reason: :internal_error, command: pending.command, message: message}
    {:error, error, nil}
  end

  @impl true
  def give_up(%{relay: relay, monitor: monitor} = pending, tag, options) do
    # Its own limit has passed a second ago: it is held up.
    Process.exit(relay, :kill)
    receive do: ({^tag, ^monitor, :process, _relay, reason} -> given_up(reason, pending, options))
  end

  defp given_up(reason, pending, options) do
    {:done, reply} = received(pending, {:down, reason})

    if reason == :killed,
      do: {:done, {:error, Overdue.error(pending.command, options, pending.pool), nil}},
      else: {:done, reply}
  end

  @impl true
  def cancel(%{relay: relay, monitor: monitor, asks: asks}, tag) do
    send(relay, :cancel)
    if asks, do: Asks.stop(asks, @grace)

    receive do
      {^tag, ^monitor, :process, _relay, _reason} -> :ok
    after
      # The connection to the other node stands still.
      @grace ->
        Process.exit(relay, :kill)
        receive do: ({^tag, ^monitor, :process, _relay, _reason} -> :ok)
    end
  end

  @impl true
  def stream(pool, command, args, options, recipient) do
    %{ref: ref, bounded: bounded, observer: observer} = recipient

    with {:ok, request} <- request({:stream, bounded}, command, args, options) do
      span = with {_manager, span} <- observer, do: span
      relay = begin(pool, request, %{stream: ref, span: span})
      two_way = with %{asks: asks} <- request.tools, do: %TwoWay{handle: relay, asks: asks}
      # If the caller receives the messages itself, the relay alone enforces the times.
      limits = if bounded, do: Overdue.limits(command, options, pool.name)
      {:ok, %Call{ref: ref, handle: relay, limits: limits, two_way: two_way}}
    end
  end

  # Structs are converted here, where their modules are.
  defp request(kind, command, args, options) do
    with :ok <- check_inputs(args),
         {:ok, args} <- Structs.replace(args, "args"),
         {:ok, asks} <- Asks.start(options.tools) do
      given =
        for {option, value} <- options,
            option not in @here and value != Map.fetch!(@of_pool, option),
            do: {option, value}

      {:ok,
       %{
         kind: kind,
         command: command,
         args: args,
         options: given,
         progress: options.on_progress != nil,
         # They run on this node, in tasks of a process that the tools there ask: see `ask_back/3`.
         tools: if(asks, do: %{names: Map.keys(options.tools.functions), asks: asks})
       }}
    else
      {:error, error} ->
        {:error, %{error | command: command, request_id: options.request_id}}
    end
  end

  # What produces the items of an input is on this node.
  defp check_inputs(args) do
    TwoWay.refuse_inputs(
      args,
      "a call to another node does not take: make the call there, by :erpc.call/4 for instance, or " <>
        "with a pool of this node"
    )
  end

  # `about`: to whom what is passed on.
  defp begin(%{name: {name, node} = pool}, request, about, options \\ []) do
    caller = self()

    relaying = fn ->
      Process.flag(:trap_exit, true)
      with %{asks: asks} <- request.tools, do: Asks.follow(asks, self())
      monitor = Process.monitor(caller)
      args = [@version, Map.merge(request, %{pool: name, relay: self()})]
      spawned = :erlang.spawn_request(node, __MODULE__, :serve, args, [:link])

      relay(
        Map.merge(about, %{
          caller: caller,
          monitor: monitor,
          spawned: spawned,
          # The relay there, once it is known, and how many chunks it has still to be asked for.
          there: nil,
          wanted: 0,
          # That of the pool is not known here.
          until: Overdue.until(%{timeout: request.options[:timeout]}),
          pool: pool,
          command: request.command,
          options: request.options
        })
      )
    end

    :erlang.spawn_opt(relaying, options)
  end

  defp relay(%{spawned: spawned, there: there, monitor: monitor} = state) do
    receive do
      {@tag, message} -> message |> pass_on(state) |> relay()
      {:ask, chunks} -> relay(want(chunks, state))
      :ask -> relay(want(0, state))
      {:EXIT, ^there, {:shutdown, {@tag, reply}}} -> finish(reply, state)
      {:EXIT, ^there, reason} -> fail(ended(reason, state.pool), state)
      {:spawn_reply, ^spawned, :ok, there} -> relay(want(0, %{state | there: there}))
      {:spawn_reply, ^spawned, :error, reason} -> fail(unavailable(reason, state.pool), state)
      {:DOWN, ^monitor, :process, _caller, _reason} -> cancelled(state)
      :cancel -> cancelled(state)
    after
      Overdue.left(state.until) -> fail(overdue(state), state)
    end
  end

  defp pass_on({:chunks, chunks}, %{stream: ref} = state) do
    send(state.caller, {:snakepit, ref, {:chunks, chunks}})
    %{state | span: Telemetry.chunks(state.span, length(chunks))}
  end

  defp pass_on({:progress, reported}, %{progress: tag} = state) do
    send(state.caller, {:snakepit_progress, tag, reported})
    state
  end

  # It never waits for a connection that is busy, so that it can always be cancelled.
  defp want(chunks, %{there: there, wanted: wanted} = state) do
    wanted = min(wanted + chunks, @max_chunks)

    cond do
      there == nil or wanted == 0 ->
        %{state | wanted: wanted}

      :erlang.send(there, {:ask, wanted}, [:nosuspend]) == :ok ->
        %{state | wanted: 0}

      true ->
        Process.send_after(self(), :ask, @busy)
        %{state | wanted: wanted}
    end
  end

  # For an error of the relay here.
  defp fail(error, %{command: command, options: options} = state) do
    error = %{error | command: command, request_id: options[:request_id]}
    finish(if(is_map_key(state, :stream), do: {:error, error}, else: {:error, error, nil}), state)
  end

  defp finish({:version, theirs}, state) do
    problem =
      "it runs another version of Snakepit, whose messages between nodes are of version #{inspect(theirs)}; those " <>
        "of this node are of version #{@version}"

    fail(incompatible(problem, state.pool), state)
  end

  defp finish(event, %{stream: ref, span: span} = state) do
    event = with {:error, error} <- event, do: {:error, %{error | pool: state.pool}}
    send(state.caller, {:snakepit, ref, event})

    case event do
      {:done, info} -> Telemetry.stop_call(span, info)
      {:error, error} -> Telemetry.fail_call(span, error, nil)
    end

    # Any other reason than `:normal` ends the relay there, should it still run.
    exit(:shutdown)
  end

  defp finish({:error, error, meta}, state),
    do: exit({:shutdown, {@tag, {:error, %{error | pool: state.pool}, meta}}})

  defp finish(reply, _state), do: exit({:shutdown, {@tag, reply}})

  defp cancelled(%{there: there} = state) do
    # At once, before handlers of telemetry run.
    if there, do: Process.exit(there, :shutdown)
    with %{span: span} <- state, do: Telemetry.stop_call(span, nil, true)
    exit(:shutdown)
  end

  defp unavailable(:noconnection, {_name, node} = pool) do
    why =
      if Node.alive?(),
        do:
          "check that it runs, that its name and cookie are right, and that it can be reached from here",
        else: "this node is not distributed; start it with --name or --sname"

    not_started("the node #{node} is not connected: #{why}", pool)
  end

  defp unavailable(reason, {_name, node} = pool),
    do: not_started("the node #{node} does not take the call: #{inspect(reason)}", pool)

  # The relay there has ended without a result.
  defp ended(:noconnection, {_name, node} = pool) do
    message =
      "the connection to the node #{node} was lost during the call, which is cancelled there; it may have run"

    node_unavailable(message, %{}, pool)
  end

  defp ended({:undef, [{module, _function, _args, _location} | _]}, pool)
       when module == __MODULE__,
       do: incompatible(@unknown, pool)

  defp ended(reason, {_name, node} = pool) do
    message = "the call's process on the node #{node} has ended: #{Cause.exited(reason)}"
    node_unavailable(message, %{}, pool)
  end

  defp incompatible(problem, {_name, node} = pool) do
    message =
      "the node #{node} cannot be called: #{problem}; use the same version of Snakepit on both"

    not_started(message, pool)
  end

  defp not_started(message, pool), do: node_unavailable(message, %{started: false}, pool)

  defp node_unavailable(message, details, pool),
    do: %Error{reason: :node_unavailable, pool: pool, message: message, details: details}

  defp overdue(%{pool: pool, command: command, options: options}) do
    times = %{timeout: options[:timeout], request_id: options[:request_id]}
    Overdue.error(command, times, pool)
  end

  ## Calls, there

  @doc false
  # In a process of its own for each call, which the relay on the caller's node has spawned.
  def serve(@version, request) do
    # What handlers of telemetry log belongs to this node.
    if leader = Process.whereis(:user), do: Process.group_leader(self(), leader)
    exit({:shutdown, {@tag, answer(request.kind, request)}})
  end

  def serve(_other, _request), do: exit({:shutdown, {@tag, {:version, @version}}})

  defp answer(:call, %{options: options} = request) do
    options =
      if request.progress,
        do: Keyword.put(options, :on_progress, progress(request.relay)),
        else: options

    case prepare(:call, request, options) do
      {:ok, call} -> Execution.run(call)
      {:error, error} -> {:error, error, nil}
    end
  end

  defp answer({:stream, bounded}, request) do
    # A stream whose messages its owner receives is not repeated.
    options = if bounded, do: request.options, else: Keyword.put(request.options, :retry, false)

    start = fn ref ->
      with {:ok, call} <- prepare(:stream, request, options),
           do: Execution.open(ref, call, bounded)
    end

    ChunkStream.forward(start, &send(request.relay, {@tag, {:chunks, &1}}))
  end

  defp prepare(kind, %{pool: name} = request, options) do
    # The state of a trace is not an option of users.
    options = with_tools(options, request.tools)

    with :ok <- options |> Keyword.delete(:tracestate) |> Execution.check(kind) do
      target = target(name, options)
      Execution.prepare(target, request.command, request.args, options, kind == :stream)
    end
  end

  defp with_tools(options, nil), do: options

  defp with_tools(options, %{names: names, asks: asks}),
    do: [{:tools, Map.new(names, &{&1, fn args -> ask_back(asks, &1, args) end})} | options]

  # In the task of a tool here: has the caller's node run it.
  defp ask_back(asks, tool, args) do
    ref = make_ref()
    monitor = Process.monitor(asks)
    id = System.unique_integer([:positive])
    ask = %{id: id, tool: tool, args: args, timeout_us: 0}
    send(asks, {:snakepit_asks, Answer.relay(self(), ref), [ask]})

    receive do
      {^ref, answer} ->
        Process.demonitor(monitor, [:flush])
        answer

      {:DOWN, ^monitor, :process, ^asks, reason} ->
        exit(reason)
    end
  end

  defp progress(relay), do: &send(relay, {@tag, {:progress, {&1.fraction, &1.message}}})
end
