defmodule Snakepit.Bench.Instructions do
  @moduledoc false

  @help """
  mix run bench/instructions.exs [--calls N] [--keep DIRECTORY]

  Counts the instructions of one call at a time, an echo of 1 KiB of text, with valgrind's callgrind.
  The counts depend neither on the speed of the machine nor on its load. Each end runs alone under
  callgrind, once with N (1,000) and once with 2 N calls; the difference divided by N is the cost of
  one call, without what starting costs.

    worker  the Python process, as a server that a client connected to: Python and the extension
    client  the pool and the connection that the NIF uses, driven by
            native/snakepit_client/examples/lone_calls.rs

  Neither includes the kernel, for which bench/cost.exs counts system calls. The BEAM itself and the
  conversion of terms by the NIF are not counted: OTP's just-in-time compiler does not run under
  valgrind. bench/cost.exs measures the CPU time of the whole BEAM.

    --calls N          how many calls are counted: 1000
    --keep DIRECTORY   keeps callgrind's files, for callgrind_annotate
  """

  @valgrind ~w(--tool=callgrind --fair-sched=yes)

  def main(args) do
    {options, rest, unknown} =
      OptionParser.parse(args, strict: [calls: :integer, keep: :string, help: :boolean])

    cond do
      rest != [] or unknown != [] -> stop("unknown arguments; see --help")
      options[:help] -> IO.write(@help)
      true -> measure(options[:calls] || 1_000, options[:keep])
    end
  end

  defp measure(calls, keep) do
    unless System.find_executable("valgrind"), do: stop("valgrind is not installed")
    folder = keep || Path.join(System.tmp_dir!(), "instructions-#{System.pid()}")
    File.mkdir_p!(folder)
    client = build_client()

    for {name, count} <- [worker: &worker/4, client: &client/4] do
      [once, twice] = for times <- [1, 2], do: count.(client, times * calls, folder, times)
      IO.puts("#{name}: #{round((twice - once) / calls)} instructions per call")
    end

    unless keep, do: File.rm_rf!(folder)
  end

  defp build_client do
    args = ~w(build --quiet --release --locked --package snakepit_client --example lone_calls)
    {_, 0} = System.cmd("cargo", args)
    Path.expand("release/examples/lone_calls", System.get_env("CARGO_TARGET_DIR", "target"))
  end

  # The instructions of the worker for its whole life, which has this many calls.
  defp worker(client, calls, folder, times) do
    file = Path.join(folder, "worker.#{times}")
    server = start_server(["valgrind" | @valgrind] ++ ["--callgrind-out-file=#{file}", python()])
    run_client([client], server, calls)
    stop_server(server)
    collected(file)
  end

  defp client(client, calls, folder, times) do
    file = Path.join(folder, "client.#{times}")
    server = start_server([python()])
    command = ["valgrind" | @valgrind] ++ ["--callgrind-out-file=#{file}", client]
    run_client(command, server, calls)
    stop_server(server)
    collected(file)
  end

  defp run_client([program | args], {_port, socket}, calls) do
    {output, status} = System.cmd(program, args ++ [socket, "#{calls}"], stderr_to_stdout: true)
    if status != 0, do: raise("the client failed:\n#{output}")
  end

  # The last line that has the sum of all events.
  defp collected(file) do
    [[_, count] | _] = Regex.scan(~r/^(?:totals|summary):\s+(\d+)/m, File.read!(file))
    String.to_integer(count)
  end

  defp start_server([program | args]) do
    socket = Path.join(System.tmp_dir!(), "instructions-#{System.pid()}.sock")

    port =
      Port.open({:spawn_executable, System.find_executable(program)}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 1000,
        args: args ++ ~w(-u -m snakepit_bridge --listen unix:#{socket}),
        env: [{~c"PYTHONPATH", ~c"python"}, {~c"SNAKEPIT_READY_TOKEN", ~c"ready"}]
      ])

    await_ready(port, "ready unix:" <> socket, [])
    {port, socket}
  end

  defp await_ready(port, ready, lines) do
    receive do
      {^port, {:data, {_, ^ready}}} ->
        :ok

      {^port, {:data, {_, line}}} ->
        await_ready(port, ready, [line | lines])

      {^port, {:exit_status, _}} ->
        raise "the server failed:\n#{lines |> Enum.reverse() |> Enum.join("\n")}"
    end
  end

  # It exits by itself, as callgrind writes its file then.
  defp stop_server({port, _socket}) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    System.cmd("kill", ["-TERM", "#{os_pid}"])
    await_exit(port)
  end

  defp await_exit(port) do
    receive do
      {^port, {:exit_status, _}} -> :ok
      {^port, {:data, _}} -> await_exit(port)
    end
  end

  defp python do
    venv = Path.expand(".venv/bin/python")
    if File.exists?(venv), do: venv, else: System.find_executable("python3")
  end

  defp stop(text) do
    IO.puts(:stderr, text)
    System.halt(2)
  end
end

Snakepit.Bench.Instructions.main(System.argv())
