defmodule Snakepit.Test.HAProxy do
  @moduledoc false
  # HAProxy with the configuration of examples/deployment, at other addresses.

  @example Path.expand("../../examples/deployment/haproxy.cfg", __DIR__)

  def executable,
    do: Enum.find_value(["haproxy", "/usr/sbin/haproxy"], &System.find_executable/1)

  @doc "The example's configuration. `bind` and the addresses of servers are as HAProxy writes them."
  def configuration(bind, servers) do
    servers = for server <- servers, do: "  server #{server} #{server}\n"

    # The servers answer health checks where they answer calls.
    @example
    |> File.read!()
    |> String.replace(~r/^  server .*\n/m, "")
    |> String.replace(" port 50052 inter 500ms", " inter 100ms")
    |> String.replace("  bind :50050 ", "  bind #{bind} ")
    |> Kernel.<>(Enum.join(servers))
  end

  @doc "Starts it between an address and those of servers. It ends with the calling process."
  def start!(executable, dir, "tcp:" <> bind, servers) do
    servers = for "tcp:" <> server <- servers, do: server
    file = Path.join(dir, "haproxy#{System.unique_integer([:positive])}.cfg")
    File.write!(file, configuration(bind, servers))
    script = ~S("$@" & child=$!; cat > /dev/null; kill -KILL $child)
    args = ["-c", script, "sh", executable, "-db", "-f", file]
    Port.open({:spawn_executable, "/bin/sh"}, [:binary, :exit_status, args: args])
  end
end
