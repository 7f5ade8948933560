# Runs 200 sessions over 4 workers under 32 callers, each session a counter in Python:
#
#     mix run bench/sessions.exs [seconds]
#
# No count may be lost or mixed up. Then one worker is killed: exactly its sessions report
# `:session_lost`, once each. Exits with status 1 if this does not hold.

defmodule Bench.Sessions do
  @sessions 200
  @workers 4
  @callers 32

  def run(seconds) do
    folder = Path.expand(__DIR__)
    args = [class: "session_commands:SessionCommands", paths: [folder]]
    {:ok, _} = Snakepit.Pool.start_link(name: :bench, size: @workers, adapter_args: args)
    :ok = Snakepit.Pool.await_ready(:bench)

    ids = for n <- 1..@sessions, do: "session #{n}"
    counters = :counters.new(@sessions, [:write_concurrency])
    counted = count(ids, counters, seconds)
    IO.puts("#{@sessions} sessions, #{@workers} workers, #{@callers} callers, #{seconds} s")
    report("calls", counted.calls)
    report("calls per second", round(counted.calls / seconds))
    report("errors", counted.errors)
    report("counts returned twice, or not in order for their caller", counted.crossed)
    homes = Map.new(Enum.with_index(ids, 1), &verify(&1, counters))
    lost = Enum.count(homes, fn {_id, {_pid, same}} -> not same end)
    report("sessions whose count is not the number of calls", lost)

    victim = homes |> Map.fetch!(hd(ids)) |> elem(0)
    theirs = for {id, {pid, _same}} <- homes, pid == victim, into: MapSet.new(), do: id
    kill(victim)
    reported = for round <- 1..2, id <- ids, lost?(id), do: {round, id}
    once = reported |> Enum.map(&elem(&1, 1)) |> Enum.sort()
    report("sessions of the killed worker", MapSet.size(theirs))
    report("sessions that reported :session_lost", length(reported))
    exact = once == Enum.sort(theirs)
    report("exactly those, once each", exact)

    if counted.errors + counted.crossed + lost > 0 or not exact, do: exit({:shutdown, 1})
  end

  # Callers pick sessions at random; for each caller the counts of a session only grow.
  defp count(ids, counters, seconds) do
    ids = List.to_tuple(ids)
    seen = :ets.new(:seen, [:public, :set, write_concurrency: true])
    until = System.monotonic_time(:millisecond) + seconds * 1000

    1..@callers
    |> Enum.map(fn _ -> Task.async(fn -> call(ids, counters, seen, until, %{}, {0, 0, 0}) end) end)
    |> Task.await_many(:infinity)
    |> Enum.reduce(%{calls: 0, errors: 0, crossed: 0}, fn {calls, errors, crossed}, sum ->
      %{calls: sum.calls + calls, errors: sum.errors + errors, crossed: sum.crossed + crossed}
    end)
  end

  defp call(ids, counters, seen, until, last, {calls, errors, crossed} = sum) do
    if System.monotonic_time(:millisecond) >= until do
      sum
    else
      n = :rand.uniform(@sessions)
      id = elem(ids, n - 1)

      case tally(id) do
        {:ok, %{"count" => count}} ->
          :counters.add(counters, n, 1)
          right = :ets.insert_new(seen, {{n, count}}) and count > Map.get(last, n, 0)
          sum = {calls + 1, errors, if(right, do: crossed, else: crossed + 1)}
          call(ids, counters, seen, until, Map.put(last, n, count), sum)

        {:error, error} ->
          IO.puts(Exception.message(error))
          call(ids, counters, seen, until, last, {calls, errors + 1, crossed})
      end
    end
  end

  defp verify({id, n}, counters) do
    {:ok, %{"count" => count, "pid" => pid}} = tally(id)
    {id, {pid, count == :counters.get(counters, n) + 1}}
  end

  defp tally(id), do: Snakepit.execute_in_session(id, "tally", %{}, pool: :bench)

  defp lost?(id), do: match?({:error, %Snakepit.Error{reason: :session_lost}}, tally(id))

  defp kill(os_pid) do
    System.cmd("kill", ["-KILL", to_string(os_pid)])
    await_replaced(os_pid)
  end

  defp await_replaced(os_pid) do
    {:ok, workers} = Snakepit.list_workers(:bench)
    ready = for %{state: :ready, uptime_ms: up, os_pid: pid} <- workers, up != nil, do: pid
    unless length(ready) == @workers and os_pid not in ready, do: await_replaced(os_pid)
  end

  defp report(what, value), do: IO.puts(String.pad_trailing("  #{what}", 58) <> "#{value}")
end

seconds = with [text | _] <- System.argv(), do: String.to_integer(text), else: (_ -> 10)
Bench.Sessions.run(seconds)
