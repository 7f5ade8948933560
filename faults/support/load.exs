defmodule Snakepit.Faults.Load do
  @moduledoc false
  # Callers that call without a pause, each call with a token. A command first appends its token
  # to a file, so that after the load the number of runs of each call is known.

  import Snakepit.Faults.Trial

  defstruct [:pool, :journal, :table, :flag, :tasks, :kinds, :stops, :forgets]

  # With these reasons a call has not run. With any other it may have run, once.
  @not_run ~w(pool_saturated pool_stopped queue_timeout worker_start_failed session_lost not_ready
              grpc_unavailable invalid_options unknown_command unauthenticated)a

  @doc """
  Starts callers. Options: `:callers`, `:kinds` of calls (of `:unary`, `:quick`, `:stream`,
  `:halted`, `:session`), `:timeout`, `:queue_timeout`, `:seed`, `:stops`: a caller that gets
  `:pool_stopped` ends, and `:forgets`: the pool itself is restarted, and knows no earlier
  sessions.
  """
  def start(pool, options) do
    journal = Path.join(System.tmp_dir!(), "journal#{System.unique_integer([:positive])}")
    File.touch!(journal)

    options =
      Keyword.merge([callers: 16, timeout: 60_000, queue_timeout: 60_000, seed: 1], options)

    load = %__MODULE__{
      pool: pool,
      journal: journal,
      table: :ets.new(:load, [:public, write_concurrency: true]),
      flag: :atomics.new(1, []),
      kinds: Keyword.fetch!(options, :kinds),
      stops: options[:stops],
      forgets: options[:forgets]
    }

    tasks =
      for index <- 1..options[:callers] do
        Task.async(fn ->
          seed(options[:seed], index)
          call = [pool: pool, timeout: options[:timeout], queue_timeout: options[:queue_timeout]]
          loop(load, call, %{id: "s#{index}", count: 0, forgets: load.forgets})
        end)
      end

    %{load | tasks: tasks}
  end

  @doc "The kinds of calls that this kind of worker supports."
  def kinds(:stdio), do: [:unary, :session]
  def kinds(_), do: [:unary, :stream, :halted, :session]

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
    do: {mark(token, journal, Enum.random([0, 0, 0, 0.05]), options), session}

  # So short that further calls are sent ahead to the worker.
  defp call(:quick, token, journal, options, session),
    do: {mark(token, journal, 0, options), session}

  defp call(:stream, token, journal, options, session) do
    count = Enum.random([1, 40, 3_000])
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
    expected = session.count && session.count + 1

    case Snakepit.execute_in_session(session.id, "mark_session", args, options) do
      {:ok, %{"count" => count}}
      when count == expected or (count == 1 and (expected == nil or session.forgets)) ->
        {:ok, %{session | count: count}}

      {:ok, %{"count" => count}} ->
        {{:wrong_session, expected, count}, %{session | count: count}}

      {:error, %Snakepit.Error{reason: :session_lost}} ->
        {:session_lost, %{session | count: 0}}

      {:error, %Snakepit.Error{reason: :worker_crashed}} ->
        # Its session was lost with the worker: the next call reports that, or begins anew.
        {:worker_crashed, %{session | count: nil}}

      {:error, %Snakepit.Error{reason: reason}} ->
        {reason, session}
    end
  end

  defp mark(token, journal, seconds, options) do
    args = %{path: journal, token: token, seconds: seconds}

    case Snakepit.execute("mark", args, options) do
      {:ok, %{"token" => ^token}} -> :ok
      {:ok, other} -> {:wrong_answer, other}
      error -> outcome(error)
    end
  end
end
