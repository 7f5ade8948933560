defmodule Snakepit.Faults.Hosts do
  @moduledoc false
  # Network namespaces as hosts, with a link to this BEAM each. They need root and `ip`. Their names have this
  # BEAM's process id, and they end with this BEAM, however it ends.

  import Snakepit.Faults.Trial

  # `:name` is that of its namespace and of its link.
  defstruct [:name, :ip]

  # For tests of networks, RFC 2544: no address of the internet. 16 of them for each run.
  @network {198, 18, 0, 0}
  @runs 8_192

  @doc "Makes hosts; skips the trial, with the reason, where that is impossible."
  def start!(count) do
    unless System.find_executable("ip"), do: skip("there is no `ip`: it makes the hosts")
    name = "sf#{System.pid()}"

    port =
      Port.open({:spawn_executable, Path.expand(".venv/bin/python")}, [
        :binary,
        :exit_status,
        line: 10_000,
        args: ["faults/python/hosts.py", name, first(), to_string(count)]
      ])

    receive do
      {^port, {:data, {:eol, "hosts " <> ips}}} ->
        for {ip, index} <- Enum.with_index(String.split(ips)),
            do: %__MODULE__{name: "#{name}-#{index}", ip: ip}

      {^port, {:data, {:eol, "none " <> why}}} ->
        skip("there can be no network namespaces here, which need root: #{why}")
    after
      60_000 -> throw({:gave_up, "the hosts are not made"})
    end
  end

  @doc "Cuts the link of a host: nothing arrives any more, and nobody is told."
  def cut(host), do: link(host, "down")

  @doc "Restores the link of a host."
  def restore(host), do: link(host, "up")

  defp link(%{name: name}, state) do
    {_, 0} = System.cmd("ip", ["-n", name, "link", "set", "eth0", state], stderr_to_stdout: true)
    :ok
  end

  defp first do
    {a, b, c, d} = @network
    offset = 16 * rem(Snakepit.Faults.OS.own_pid(), @runs)
    <<a, b, c, d>> = <<:binary.decode_unsigned(<<a, b, c, d>>) + offset::32>>
    "#{a}.#{b}.#{c}.#{d}"
  end
end
