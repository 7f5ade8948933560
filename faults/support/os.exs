defmodule Snakepit.Faults.OS do
  @moduledoc false
  # Processes of the operating system, from the kernel's tables.

  @doc "The OS processes of a pool's workers."
  def workers(pool), do: matching("--worker-id\0#{inspect(pool)}/")

  @doc "The processes whose command line has this text."
  def matching(text) do
    for path <- Path.wildcard("/proc/[0-9]*/cmdline"),
        {:ok, line} <- [File.read(path)],
        String.contains?(line, text),
        os_pid = path |> Path.dirname() |> Path.basename() |> String.to_integer(),
        alive?(os_pid),
        do: os_pid
  end

  @doc "The command line of a process, for messages."
  def command_line(os_pid) do
    case File.read("/proc/#{os_pid}/cmdline") do
      {:ok, line} -> line |> String.replace("\0", " ") |> String.slice(0, 200)
      {:error, _} -> "(gone)"
    end
  end

  defdelegate alive?(os_pid), to: Snakepit.Test.OS

  @doc "The descendants of a process whose command line has this text."
  def children(os_pid, text), do: Enum.filter(matching(text), &(os_pid in ancestors(&1)))

  defp ancestors(os_pid) do
    case parent(os_pid) do
      parent when parent > 1 -> [parent | ancestors(parent)]
      _ -> []
    end
  end

  defp parent(os_pid) do
    with {:ok, status} <- File.read("/proc/#{os_pid}/status"),
         [_, parent] <- Regex.run(~r/PPid:\s+(\d+)/, status) do
      String.to_integer(parent)
    else
      _ -> 0
    end
  end

  @doc "Whether a signal was sent to a process and is still pending."
  def pending?(os_pid, signal) do
    case File.read("/proc/#{os_pid}/status") do
      {:ok, status} ->
        masks =
          for [_, mask] <- Regex.scan(~r/(?:Sig|Shd)Pnd:\s+([0-9a-f]+)/, status),
              do: String.to_integer(mask, 16)

        Enum.any?(masks, &(Bitwise.band(Bitwise.bsr(&1, signal - 1), 1) == 1))

      {:error, _} ->
        false
    end
  end

  @doc "Sends a signal by name to all processes at once."
  def signal(os_pids, signal) do
    os_pids = for os_pid <- List.wrap(os_pids), do: to_string(os_pid)
    if os_pids != [], do: System.cmd("kill", ["-#{signal}" | os_pids], stderr_to_stdout: true)
    :ok
  end

  def own_pid, do: String.to_integer(System.pid())

  @doc "Resident memory in MB, 0 if there is no process."
  def rss(os_pid) do
    with {:ok, status} <- File.read("/proc/#{os_pid}/status"),
         [_, kib] <- Regex.run(~r/VmRSS:\s+(\d+)/, status) do
      String.to_integer(kib) / 1024
    else
      _ -> 0.0
    end
  end

  @doc "The number of open descriptors of a process."
  def descriptors(os_pid) do
    case File.ls("/proc/#{os_pid}/fd") do
      {:ok, names} -> length(names)
      {:error, _} -> 0
    end
  end

  @doc "Samples the resident memory of processes; `peaks/1` stops this and returns the maximum of each."
  def watch(os_pids) do
    Task.async(fn -> sample(os_pids, Map.new(os_pids, &{&1, rss(&1)})) end)
  end

  def peaks(watch) do
    send(watch.pid, :stop)
    Task.await(watch, 60_000)
  end

  defp sample(os_pids, peaks) do
    receive do
      :stop -> peaks
    after
      50 ->
        sample(os_pids, Map.new(peaks, fn {os_pid, peak} -> {os_pid, max(peak, rss(os_pid))} end))
    end
  end

  @doc "The address on which a Python worker listens."
  def address(os_pid) do
    [_, listen] = Regex.run(~r/--listen\0([^\0]+)/, File.read!("/proc/#{os_pid}/cmdline"))
    if String.starts_with?(listen, "unix:"), do: listen, else: "tcp:127.0.0.1:#{port(os_pid)}"
  end

  # The port of the only listening socket of the process.
  defp port(os_pid) do
    {:ok, names} = File.ls("/proc/#{os_pid}/fd")

    sockets =
      for name <- names,
          {:ok, "socket:[" <> inode} <- [File.read_link("/proc/#{os_pid}/fd/#{name}")],
          do: String.trim_trailing(inode, "]")

    # grpcio's socket is an IPv6 socket with an IPv4 address.
    [port] =
      for table <- ~w(/proc/net/tcp /proc/net/tcp6),
          {:ok, lines} <- [File.read(table)],
          line <- String.split(lines, "\n"),
          [_, local, _, "0A", _, _, _, _, _, inode | _] <- [String.split(line)],
          inode in sockets,
          [_, port] = String.split(local, ":"),
          do: String.to_integer(port, 16)

    port
  end
end
