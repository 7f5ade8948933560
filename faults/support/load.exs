defmodule Snakepit.Faults.Load do
  @moduledoc false
  # Callers that call without a pause, each call with a token. A command first appends its token
  # to a file, so that after the load the number of runs of each call is known.

  import Snakepit.Faults.Trial

  defstruct [:pool, :journal, :table, :tools, :flag, :tasks, :kinds, :stops, :forgets]

  # With these reasons a call has not run. With any other it may have run, once.
  @not_run ~w(pool_saturated pool_stopped queue_timeout worker_start_failed session_lost not_ready
              grpc_unavailable invalid_options unknown_command unauthenticated)a

  @doc """
  Starts callers. Options: `:callers`, `:kinds` of calls (of `:unary`, `:quick`, `:stream`,
  `:halted`, `:session`, and those of `two_way/1`), `:timeout`, `:queue_timeout`, `:what`, the trial's seed and form,
  `:stops`: a caller that gets `:pool_stopped` ends, and `:forgets`: the pool itself is restarted, and
  knows no earlier sessions.
  """
  def start(pool, options) do
    journal = Path.join(System.tmp_dir!(), "journal#{System.unique_integer([:positive])}")
    File.touch!(journal)

    options = Keyword.merge([callers: 16, timeout: 60_000, queue_timeout: 60_000], options)
    what = Keyword.fetch!(options, :what)

    load = %__MODULE__{
      pool: pool,
      journal: journal,
      table: :ets.new(:load, [:public, write_concurrency: true]),
      # The processes in which tools were begun.
      tools: :ets.new(:tools, [:public, write_concurrency: true]),
      flag: :atomics.new(1, []),
      kinds: Keyword.fetch!(options, :kinds),
      stops: options[:stops],
      forgets: options[:forgets]
    }

    tasks =
      for index <- 1..options[:callers] do
        Task.async(fn ->
          seed(what.seed, index)
          call = [pool: pool, timeout: options[:timeout], queue_timeout: options[:queue_timeout]]

          # The short form needs calls that run, not many of them: they use little CPU time.
          session = %{
            id: "s#{index}",
            count: 0,
            # How many calls since the last that was counted may have run.
            unsure: 0,
            forgets: load.forgets,
            tools: load.tools,
            seconds: times(what, [0, 0.1, 0.4], [0, 0, 0, 0.05]),
            asks: times(what, 8, 20),
            items: times(what, 20, 40),
            pushes: times(what, 40, 200),
            chunks: times(what, 200, 3_000)
          }

          loop(load, call, session)
        end)
      end

    %{load | tasks: tasks}
  end

  @doc "The kinds of calls that this kind of worker supports."
  def kinds(kind), do: one_way(kind) ++ two_way(kind)

  defp one_way(:stdio), do: [:unary, :session]
  defp one_way(_), do: [:unary, :stream, :halted, :session]

  @doc "Those of them that have tools or input streams."
  def two_way(:stdio), do: [:asks]
  def two_way(_), do: [:asks, :asking_stream, :input, :both_ways, :pushed]

  @doc "The processes in which tools were begun that still run."
  def running_tools(load),
    do: for({pid} <- :ets.tab2list(load.tools), Process.alive?(pid), do: pid)

  @doc "The number of calls that have ended."
  def calls(load), do: :ets.info(load.table, :size)

  @doc "The BEAM's memory that the record of the calls takes, in MB."
  def megabytes(load),
    do: :ets.info(load.table, :memory) * :erlang.system_info(:wordsize) / 1_048_576

  @doc "Waits for this many more calls, to see that the load continues."
  def goes_on(load, calls) do
    before = calls(load)

    wait("#{inspect(load.pool)} answers #{calls} more calls", fn ->
      calls(load) >= before + calls
    end)
  end

  @doc "Ends the load and checks the results of its calls; `allowed` are the permitted error reasons."
  def stop(load, name, allowed) do
    :atomics.put(load.flag, 1, 1)
    judge(load, name, allowed)
  end

  @doc "Like `stop/3`, for a pool that was stopped: the callers end on their own."
  def judge(load, name, allowed) do
    ended = await_all(load.tasks, "callers of #{name}")
    stray = Enum.sum(ended)
    must(stray == 0, "#{name}: #{stray} messages are left in callers' mailboxes")

    runs = runs(load.journal)
    calls = :ets.tab2list(load.table)
    tally = Enum.frequencies_by(calls, &elem(&1, 2))
    run = fn token -> Map.get(runs, token, 0) end

    twice = Enum.count(runs, fn {_token, count} -> count > 1 end)
    lost = for {token, _, :ok} <- calls, run.(token) == 0, do: token

    untrue =
      for {token, kind, reason} when reason in @not_run <- calls,
          run.(token) > 0,
          do: {kind, reason}

    wrong = Map.keys(tally) -- [:ok | allowed]
    unknown = map_size(Map.drop(runs, for({token, _, _} <- calls, do: token)))

    count(name, Map.put(tally, :calls, length(calls)))
    must(twice == 0, "#{name}: #{twice} calls ran twice")
    must(lost == [], "#{name}: #{length(lost)} calls were answered and never ran")

    must(
      untrue == [],
      "#{name}: calls ran that were said not to: #{inspect(Enum.frequencies(untrue))}"
    )

    must(unknown == 0, "#{name}: #{unknown} calls ran whose callers never got an answer")
    must(calls != [], "#{name}: there was no call")
    tools = running_tools(load)
    must(tools == [], "#{name}: #{length(tools)} tools outlive their calls")
    for what <- wrong, do: fail("#{name}: #{tally[what]} calls ended with #{inspect(what)}")
    File.rm(load.journal)
    tally
  end

  defp runs(journal) do
    journal
    |> File.read!()
    |> String.split("\n", trim: true)
    |> Enum.frequencies_by(&String.to_integer/1)
  end

  defp loop(load, options, session) do
    if :atomics.get(load.flag, 1) == 1 do
      stray()
    else
      token = System.unique_integer([:positive])
      kind = Enum.random(load.kinds)
      {outcome, session} = call(kind, token, load.journal, options, session)
      :ets.insert(load.table, {token, kind, outcome})
      next(outcome, load, options, session)
    end
  end

  defp next(:ok, load, options, session), do: loop(load, options, session)
  defp next(:pool_stopped, %{stops: true}, _options, _session), do: stray()

  defp next(_error, load, options, session) do
    # A caller pauses after an error.
    receive do
    after
      5 -> loop(load, options, session)
    end
  end

  # Messages that no call has taken: the caller's mailbox must be empty again.
  defp stray do
    {:message_queue_len, length} = Process.info(self(), :message_queue_len)
    length
  end

  # Some run long enough to be hit by what happens to their worker.
  defp call(:unary, token, journal, options, session),
    do: {mark("mark", token, journal, Enum.random(session.seconds), options), session}

  # So short that further calls are sent ahead to the worker, but for a few behind which calls are recalled.
  defp call(:quick, token, journal, options, session) do
    seconds = if :rand.uniform(200) == 1, do: 0.05, else: 0
    {mark("mark_quick", token, journal, seconds, options), session}
  end

  defp call(:stream, token, journal, options, session) do
    count = Enum.random([1, session.items, session.chunks])
    seen = :counters.new(1, [])

    result =
      Snakepit.execute_stream(
        "mark_stream",
        %{path: journal, token: token, count: count},
        fn %{"index" => index} ->
          if index != :counters.get(seen, 1), do: :counters.add(seen, 1, 1_000_000)
          :counters.add(seen, 1, 1)
        end,
        options
      )

    # The last chunk is what the generator returned.
    right = :counters.get(seen, 1) == count + 1

    {case outcome(result) do
       :ok when not right -> :wrong_chunks
       other -> other
     end, session}
  end

  defp call(:halted, token, journal, options, session) do
    args = %{path: journal, token: token, count: 1_000_000}
    chunks = "mark_stream" |> Snakepit.stream(args, options) |> Enum.take(3)
    right = Enum.map(chunks, & &1["index"]) == [0, 1, 2]
    {if(right, do: :ok, else: :wrong_chunks), session}
  rescue
    error in Snakepit.Error -> {error.reason, session}
  end

  defp call(:session, token, journal, options, session) do
    args = %{path: journal, token: token}

    case Snakepit.execute_in_session(session.id, "mark_session", args, options) do
      {:ok, %{"count" => count}} ->
        possible = count_possible?(count, session)
        outcome = if possible, do: :ok, else: {:wrong_session, session.count, count}
        {outcome, %{session | count: count, unsure: 0}}

      {:error, %Snakepit.Error{reason: :session_lost}} ->
        {:session_lost, %{session | count: 0, unsure: 0}}

      {:error, %Snakepit.Error{reason: :worker_crashed}} ->
        # Its session was lost with the worker: the next call reports that, or begins anew.
        {:worker_crashed, %{session | count: nil, unsure: 0}}

      {:error, %Snakepit.Error{reason: reason}} when reason in @not_run ->
        {reason, session}

      {:error, %Snakepit.Error{reason: reason}} ->
        {reason, %{session | unsure: session.unsure + 1}}
    end
  end

  defp call(:asks, token, journal, options, session) do
    args = %{path: journal, token: token, tool: "same", count: Enum.random([1, session.asks])}
    command = Enum.random(["mark_asks", "mark_asks_async"])

    case Snakepit.execute(command, args, [tools: [same: same(session)]] ++ options) do
      {:ok, %{"token" => ^token, "code" => nil}} -> {:ok, session}
      {:ok, %{"token" => ^token, "code" => code}} -> {{:tool_error, code}, session}
      {:ok, other} -> {{:wrong_answer, other}, session}
      error -> {outcome(error), session}
    end
  end

  defp call(:asking_stream, token, journal, options, session) do
    count = Enum.random([1, session.items])
    args = %{path: journal, token: token, tool: "same", count: count}
    options = [tools: [same: same(session)]] ++ options
    chunks = "mark_asking_stream" |> Snakepit.stream(args, options) |> Enum.map(& &1["index"])
    {if(chunks == Enum.to_list(1..count), do: :ok, else: :wrong_chunks), session}
  rescue
    error in Snakepit.Error -> {tool_error(error), session}
  end

  defp call(:input, token, journal, options, session) do
    count = Enum.random([0, 10, session.chunks])
    args = %{path: journal, token: token, rows: Snakepit.input(rows(count))}
    sum = div(count * (count + 1), 2)

    outcome =
      case Snakepit.execute("mark_input", args, options) do
        {:ok, %{"token" => ^token, "sum" => ^sum}} -> :ok
        {:ok, other} -> {:wrong_answer, other}
        error -> outcome(error)
      end

    {closed(outcome), session}
  end

  # Halted, or up to the end.
  defp call(:both_ways, token, journal, options, session) do
    count = Enum.random([10, 1_000_000])
    args = %{path: journal, token: token, rows: Snakepit.input(rows(count))}
    chunks = "mark_both_ways" |> Snakepit.stream(args, options) |> Enum.take(20)
    right = Enum.map(chunks, & &1["index"]) == Enum.take(1..count, 20)
    {closed(if(right, do: :ok, else: :wrong_chunks)), session}
  rescue
    error in Snakepit.Error -> {closed(error.reason), session}
  end

  defp call(:pushed, token, journal, options, session) do
    count = Enum.random([1, session.pushes])
    args = %{path: journal, token: token, rows: Snakepit.input(:push)}

    case Snakepit.start_stream("mark_both_ways", args, options) do
      {:ok, call} ->
        # Halts when the input is closed.
        Enum.all?(1..count, &(Snakepit.push(call, &1) == :ok))
        :ok = Snakepit.finish(call)
        {pushed(call, 1, count), session}

      error ->
        {outcome(error), session}
    end
  end

  defp pushed(%{ref: ref} = call, next, count) do
    receive do
      {:snakepit, ^ref, {:chunks, chunks}} ->
        Snakepit.ask(call, length(chunks))
        indexes = Enum.map(chunks, & &1["index"])
        after_these = next + length(chunks)

        if indexes == Enum.to_list(next..(after_these - 1)),
          do: pushed(call, after_these, count),
          else: :wrong_chunks

      {:snakepit, ^ref, {:done, _info}} ->
        if next == count + 1, do: :ok, else: :wrong_chunks

      {:snakepit, ^ref, {:error, error}} ->
        outcome({:error, error})
    end
  end

  # A session that began anew has counted only this call, and those before it that may have run.
  defp count_possible?(count, %{count: before, unsure: unsure} = session) do
    begins = if before == nil or session.forgets, do: [0, before || 0], else: [before]
    Enum.any?(begins, &(count in (&1 + 1)..(&1 + 1 + unsure)))
  end

  # A tool, which sometimes takes long enough to be hit by something.
  defp same(%{tools: tools}) do
    fn %{"x" => x} ->
      :ets.insert(tools, {self()})
      pause = Enum.random([0, 0, 0, 0, 20])

      receive do
      after
        pause -> :ets.delete(tools, self())
      end

      x
    end
  end

  # The command has not caught the error of a tool.
  defp tool_error(%{reason: :python_error, details: %{type: "snakepit_bridge.ToolError"}}),
    do: {:tool_error, "uncaught"}

  defp tool_error(error), do: error.reason

  # Rows that note in the caller whether they are open.
  defp rows(count) do
    Stream.resource(
      fn ->
        Process.put(:rows, :open)
        1
      end,
      fn
        next when next > count -> {:halt, next}
        next -> {[next], next + 1}
      end,
      fn _next -> Process.delete(:rows) end
    )
  end

  defp closed(outcome), do: if(Process.delete(:rows), do: :rows_left_open, else: outcome)

  defp mark(command, token, journal, seconds, options) do
    args = %{path: journal, token: token, seconds: seconds}

    case Snakepit.execute(command, args, options) do
      {:ok, %{"token" => ^token}} -> :ok
      {:ok, other} -> {:wrong_answer, other}
      error -> outcome(error)
    end
  end
end
