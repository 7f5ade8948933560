defmodule Snakepit.Faults.Trial do
  @moduledoc false
  # What every trial needs besides breaking things: it starts pools, waits for events, and reports
  # what it has seen. Verdicts never depend on a machine's speed: waits end by events, with much
  # patience.

  alias Snakepit.Faults.OS

  @report :snakepit_faults_report
  @patience 60_000

  @doc "The kinds of workers, with the options of their pools."
  def kinds do
    [
      native: [server: :native],
      grpcio: [server: :grpcio],
      stdio: [adapter: Snakepit.Adapters.GenericPythonV2]
    ]
  end

  @doc "A trial's BEAM: runs the trial, and writes its verdict, figures and failures."
  def main([argument]) do
    what = argument |> Base.decode64!() |> :erlang.binary_to_term()
    trial = Enum.find(what.module.trials(), &(&1.name == what.name))
    report = run(trial, what)
    File.write!(what.result <> ".new", :erlang.term_to_binary(report))
    File.rename!(what.result <> ".new", what.result)
    System.halt(0)
  end

  defp run(trial, what) do
    :ets.new(@report, [:named_table, :public, :ordered_set])
    Logger.configure(level: :warning)
    {:ok, _} = Application.ensure_all_started(:snakepit)

    # In a process of its own: if a linked process ends it, that is a verdict, too.
    {_, monitor} = spawn_monitor(fn -> exit({:ended, attempt(trial, what)}) end)

    skipped =
      receive do
        {:DOWN, ^monitor, :process, _, {:ended, skipped}} ->
          skipped

        {:DOWN, ^monitor, :process, _, reason} ->
          fail(Exception.format_exit(reason))
          nil
      end

    case {failures(), skipped} do
      {[], nil} -> %{verdict: :good, figures: figures(), failures: []}
      {[], reason} -> %{verdict: :skipped, figures: [], failures: [reason]}
      {failures, _} -> %{verdict: :bad, figures: figures(), failures: failures}
    end
  end

  defp attempt(trial, what) do
    seed(what.seed)
    trial.run.(what)
    nil
  catch
    {:skip, reason} ->
      reason

    {:gave_up, text} ->
      fail(text)
      nil

    kind, reason ->
      fail(Exception.format(kind, reason, __STACKTRACE__))
      nil
  end

  defp failures, do: for({{:failure, _}, text, _} <- :ets.tab2list(@report), uniq: true, do: text)

  defp figures do
    counts =
      for {{:counts, name}, counts, at} <- :ets.tab2list(@report),
          do: {at, "#{name}:", shown(counts)}

    singles = for {{:figure, at}, name, value} <- :ets.tab2list(@report), do: {at, name, value}
    for {_at, name, value} <- Enum.sort(counts ++ singles), do: {name, value}
  end

  defp shown(counts) do
    {calls, rest} = Map.pop(counts, :calls, 0)
    others = for {what, count} <- Map.delete(rest, :ok), do: "#{count} #{word(what)}"
    Enum.join(["#{calls} calls" | others], ", ")
  end

  defp word(what) when is_atom(what), do: to_string(what)
  defp word(what), do: inspect(what)

  @doc "Seeds the random numbers of this process, the `index`th of its kind, from the run's seed."
  def seed(seed, index \\ 0), do: :rand.seed(:exsss, {seed, index, 7})

  @doc "How often, or for how long, in this form of the suite."
  def times(%{form: :short}, short, _long), do: short
  def times(%{form: :long}, _short, long), do: long

  @doc "Runs a function for all items at once; ends the trial if one of them fails."
  def each_at_once(list, fun) do
    run = fn item ->
      try do
        {:ok, fun.(item)}
      catch
        kind, reason -> {kind, reason, __STACKTRACE__}
      end
    end

    for result <- list |> Enum.map(&Task.async(fn -> run.(&1) end)) |> Task.await_many(:infinity) do
      with {kind, reason, trace} <- result, do: :erlang.raise(kind, reason, trace)
    end
  end

  @doc "Adds a figure to the trial's row."
  def figure(name, value) do
    note(:figure, name, if(is_float(value), do: Float.round(value, 1), else: value))
  end

  @doc "Adds counts to the trial's counts under a name, as one figure."
  def count(name, counts) do
    all = fn old -> Map.merge(old, counts, fn _, one, other -> one + other end) end

    case :ets.lookup(@report, {:counts, name}) do
      [{key, old, position}] -> :ets.insert(@report, {key, all.(old), position})
      [] -> :ets.insert(@report, {{:counts, name}, counts, System.unique_integer([:monotonic])})
    end
  end

  @doc "Makes the verdict bad unless `true`, and says why."
  def must(true, _text), do: true
  def must(false, text), do: fail(text)

  def fail(text), do: note(:failure, text, nil)

  @doc "Ends the trial without a verdict."
  def skip(reason), do: throw({:skip, reason})

  @doc "Waits until `condition` holds; ends the trial if it does not within `patience` ms."
  def wait(text, condition, patience \\ @patience) do
    poll(text, condition, now() + patience, patience)
  end

  defp poll(text, condition, deadline, patience) do
    cond do
      condition.() ->
        :ok

      now() > deadline ->
        throw({:gave_up, "#{text}: not within #{div(patience, 1000)} s"})

      true ->
        receive do
        after
          20 -> poll(text, condition, deadline, patience)
        end
    end
  end

  @doc """
  Waits until commands run that create these files, or until one of their calls has ended: then
  its timeout was too short for this machine, and `false` is returned.
  """
  def running?(files, tasks) do
    wait("the commands run", fn ->
      Enum.all?(files, &File.exists?/1) or not Enum.all?(tasks, &Process.alive?(&1.pid))
    end)

    Enum.all?(files, &File.exists?/1)
  end

  @doc "Starts a pool of the suite's commands and waits until it is ready: its name and supervisor."
  def start_pool!(options) do
    {name, supervisor} = start_pool_unready!(options)
    ready!(name)
    {name, supervisor}
  end

  def start_pool_unready!(options) do
    name = :"faults#{System.pid()}_#{System.unique_integer([:positive])}"
    paths = for folder <- ~w(faults/python test/support/python), do: Path.expand(folder)
    args = [class: "fault_commands:Faults", paths: paths]

    options =
      Keyword.merge(
        [name: name, size: 2, adapter_args: args, restart_backoff: {50, 1_000}],
        options
      )

    {:ok, supervisor} =
      Supervisor.start_link([{Snakepit.Pool, options}],
        strategy: :one_for_one,
        max_restarts: 1_000_000
      )

    {options[:name], supervisor}
  end

  @doc "Waits until every worker of a pool is ready, however often one has to be started."
  def ready!(pool) do
    wait("#{inspect(pool)} is ready", fn -> Snakepit.Pool.await_ready(pool, @patience) == :ok end)
  end

  @doc "Stops pools, and checks that nothing of them is left."
  def stop_pools(pools) do
    for {name, supervisor} <- pools do
      os_pids = OS.workers(name)
      :ok = Supervisor.stop(supervisor, :normal, @patience)
      gone(os_pids, "a worker outlives its pool")
    end

    left = Path.wildcard(Path.join(System.tmp_dir!(), "snakepit-*"))
    must(left == [], "stopped pools leave #{inspect(left)}")
  end

  @doc "Checks that processes of the operating system end."
  def gone(os_pids, text) do
    wait(text, fn -> not Enum.any?(os_pids, &OS.alive?/1) end)
  catch
    {:gave_up, text} ->
      left = Enum.filter(os_pids, &OS.alive?/1)
      fail("#{text}: #{Enum.map_join(left, "; ", &"#{&1} #{OS.command_line(&1)}")}")
      OS.signal(left, "KILL")
  end

  @doc "Waits until the pool has replaced the ended workers, and knows it."
  def replaced(pool, os_pids, text) do
    wait(text, fn ->
      {:ok, workers} = Snakepit.list_workers(pool)

      # A call made before the pool has noticed an end would go to the ended worker.
      Enum.all?(workers, fn worker ->
        worker.state == :ready and is_integer(worker.os_pid) and worker.os_pid not in os_pids
      end)
    end)
  end

  @doc "Waits for tasks and returns their results; those that hang are counted, named and ended."
  def await_all(tasks, text, patience \\ @patience) do
    ended = Task.yield_many(tasks, patience)
    hung = for {task, nil} <- ended, do: task

    for task <- Enum.take(hung, 1) do
      {:current_stacktrace, trace} =
        Process.info(task.pid, :current_stacktrace) || {:current_stacktrace, []}

      fail("#{length(hung)} #{text} hang:\n#{Exception.format_stacktrace(Enum.take(trace, 4))}")
    end

    for task <- hung, do: Task.shutdown(task, :brutal_kill)

    Enum.flat_map(ended, fn
      {_, {:ok, value}} ->
        [value]

      {_, {:exit, reason}} ->
        fail("one of #{text} exited: #{inspect(reason)}")
        []

      {_, nil} ->
        []
    end)
  end

  @doc "The result of a call, in short form."
  def outcome({:ok, _}), do: :ok
  def outcome(:ok), do: :ok

  # Its reason says little.
  def outcome({:error, %Snakepit.Error{reason: :rpc_error} = error}) do
    IO.puts("rpc_error: #{error.message}")
    :rpc_error
  end

  # With a status, which somebody has answered, the call may have run.
  def outcome({:error, %Snakepit.Error{reason: :grpc_unavailable, details: %{grpc_status: _}}}),
    do: :answered_unavailable

  def outcome({:error, %Snakepit.Error{reason: reason}}), do: reason

  @doc "A percentile of microseconds, in ms."
  def percentile([], _percent), do: 0.0

  def percentile(times, percent) do
    sorted = Enum.sort(times)
    Enum.at(sorted, min(div(length(sorted) * percent, 100), length(sorted) - 1)) / 1000
  end

  def now, do: System.monotonic_time(:millisecond)

  defp note(kind, name, value) do
    :ets.insert(@report, {{kind, System.unique_integer([:monotonic])}, name, value})
    true
  end
end
