defmodule Snakepit.TwoWay.Holding do
  @moduledoc false
  # The two-way calls that wait for what a process does: because a tool of theirs runs in it, because it produces the items
  # of their inputs, or because it is a task for which the process of a tool waits. A call of that process must not wait for
  # the places of these calls.

  @key :"$snakepit_holding"

  @doc "Makes the table of the processes in which tools run. It belongs to the calling process."
  @spec new() :: any
  def new, do: :ets.new(__MODULE__, [:named_table, :public, write_concurrency: true])

  @doc "The calls that wait for the calling process, as resources."
  @spec get() :: [reference]
  def get do
    # Every call comes here: these functions take a third of the reductions of those of Process.
    with :undefined <- :erlang.get(@key) do
      case :erlang.get(:"$callers") do
        [_ | _] = callers -> of_callers(callers)
        _none -> []
      end
    end
  end

  defp of_callers(callers) do
    holding = Enum.find_value(callers, [], &of_tool/1)
    if holding != [] and awaited?(), do: holding, else: []
  rescue
    # The application does not run.
    ArgumentError -> []
  end

  defp of_tool(pid),
    do:
      with(
        [{_pid, _asks, holding}] <- :ets.lookup(__MODULE__, pid),
        do: holding,
        else: (_ -> nil)
      )

  # Who waits for a task monitors it. One that was started only to run beside may outlive the tool.
  defp awaited? do
    {:monitored_by, by} = Process.info(self(), :monitored_by)
    Enum.any?(by, &is_pid/1)
  end

  @doc "A tool runs in the calling process, which belongs to the process `asks`."
  @spec put(pid, [reference]) :: any
  def put(asks, holding) do
    Process.put(@key, holding)
    :ets.insert(__MODULE__, {self(), asks, holding})
  end

  @doc "Calls a function of the calling process, for which calls wait."
  @spec during([reference], (() -> result)) :: result when result: term
  def during(calls, function) do
    before = :erlang.get(@key)
    :erlang.put(@key, calls ++ get())

    try do
      function.()
    after
      if before == :undefined, do: :erlang.erase(@key), else: :erlang.put(@key, before)
    end
  end

  @doc "No tool runs in a process any more."
  @spec ended(pid) :: any
  def ended(tool), do: :ets.delete(__MODULE__, tool)

  @doc "The process of these tools was killed."
  @spec killed(pid) :: any
  def killed(asks), do: :ets.match_delete(__MODULE__, {:_, asks, :_})
end
