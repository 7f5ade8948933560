defmodule Snakepit.Bench.Cost.Counters do
  @moduledoc false
  # What the kernel counts for processes: CPU time, context switches, memory and, with perf or
  # strace, system calls.

  @doc """
  The CPU time in ns, and the voluntary and involuntary context switches, of each thread of these
  processes whose name matches.
  """
  def threads(os_pids, name \\ ~r//) do
    for os_pid <- os_pids,
        task <- Path.wildcard("/proc/#{os_pid}/task/*"),
        # A thread may end meanwhile.
        {:ok, comm} <- [File.read(task <> "/comm")],
        comm =~ name,
        {:ok, schedstat} <- [File.read(task <> "/schedstat")],
        {:ok, status} <- [File.read(task <> "/status")],
        into: %{} do
      [cpu | _] = String.split(schedstat)
      [_, voluntary] = Regex.run(~r/^voluntary_ctxt_switches:\s+(\d+)/m, status)
      [_, involuntary] = Regex.run(~r/^nonvoluntary_ctxt_switches:\s+(\d+)/m, status)
      {task, Enum.map([cpu, voluntary, involuntary], &String.to_integer/1)}
    end
  end

  @doc "Runs the function; returns how much these processes' threads used meanwhile."
  def used(groups, fun) do
    before = Enum.map(groups, &threads/1)
    result = fun.()
    {result, Enum.zip_with(Enum.map(groups, &threads/1), before, &difference/2)}
  end

  @doc "The sums of `[cpu, voluntary, involuntary]` over all threads."
  def difference(threads, before) do
    for {task, counts} <- threads, reduce: [0, 0, 0] do
      sums ->
        before = Map.get(before, task, [0, 0, 0])
        Enum.zip_with([sums, counts, before], fn [sum, count, before] -> sum + count - before end)
    end
  end

  @doc "Makes the peak of a process's resident memory start again at its present value."
  def reset_peak(os_pid), do: File.write!("/proc/#{os_pid}/clear_refs", "5")

  def peak(os_pid), do: memory(os_pid, "VmHWM")
  def resident(os_pid), do: memory(os_pid, "VmRSS")

  defp memory(os_pid, field) do
    [_, kib] = Regex.run(~r/^#{field}:\s+(\d+) kB/m, File.read!("/proc/#{os_pid}/status"))
    String.to_integer(kib) * 1024
  end

  @doc """
  How many system calls, or machine instructions, each of these processes makes while the function
  runs; nil for what this machine does not let one count.
  """
  def count(:system_calls, os_pids, fun),
    do: count([perf("raw_syscalls:sys_enter"), &strace/1], os_pids, fun)

  def count(:instructions, os_pids, fun), do: count([perf("instructions")], os_pids, fun)

  def count(counters, os_pids, fun) do
    if counter = Enum.find(counters, &counts?/1) do
      stops = Enum.map(os_pids, counter)
      fun.()
      Enum.map(stops, & &1.())
    end
  end

  defp counts?(counter) do
    stop = counter.(System.pid())
    is_function(stop) and is_integer(stop.())
  end

  # perf starts its command when it counts, and ends with it.
  defp perf(event) do
    fn os_pid ->
      args = ~w(stat -x, -e #{event} -p #{os_pid} -- sh -c) ++ ["echo ready; read _"]
      stop = fn port -> Port.command(port, "\n") end
      observe("perf", args, ~r/ready/, stop, &Regex.run(~r/^(\d+),/m, &1))
    end
  end

  defp strace(os_pid) do
    stop = fn port ->
      {:os_pid, strace} = Port.info(port, :os_pid)
      System.cmd("kill", ["-INT", "#{strace}"])
    end

    total = ~r/^100.00\s+\S+\s+\d+\s+(\d+).*total$/m
    observe("strace", ~w(-f -c -p #{os_pid}), ~r/attached/, stop, &Regex.run(total, &1))
  end

  # Returns a function that ends the program and returns its count; nil if it cannot count.
  defp observe(program, args, ready, stop, parse) do
    if path = System.find_executable(program) do
      options = [:binary, :exit_status, :stderr_to_stdout, args: args]
      port = Port.open({:spawn_executable, path}, options)

      if await_ready(port, ready, "") do
        fn ->
          stop.(port)

          case parse.(await_exit(port, "")) do
            [_, count] -> String.to_integer(count)
            nil -> nil
          end
        end
      end
    end
  end

  defp await_ready(port, ready, output) do
    receive do
      {^port, {:data, data}} ->
        output <> data =~ ready || await_ready(port, ready, output <> data)

      {^port, {:exit_status, _}} ->
        false
    end
  end

  defp await_exit(port, output) do
    receive do
      {^port, {:data, data}} -> await_exit(port, output <> data)
      {^port, {:exit_status, _}} -> output
    end
  end
end
