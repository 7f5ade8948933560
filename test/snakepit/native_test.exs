defmodule Snakepit.NativeTest do
  use ExUnit.Case, async: true

  @moduletag :tmp_dir

  test "without the library the application starts, and calls say why", %{tmp_dir: dir} do
    # A copy of the application whose priv/ has no library, in a BEAM of its own.
    app = Path.join(dir, "snakepit")
    File.mkdir_p!(Path.join(app, "priv"))
    File.cp_r!(Application.app_dir(:snakepit, "ebin"), Path.join(app, "ebin"))

    script = """
    {:ok, _} = Application.ensure_all_started(:snakepit)
    {:ok, _} = Snakepit.Pool.start_link(size: 1)

    results = [
      Snakepit.Pool.await_ready(),
      Snakepit.execute("ping"),
      Snakepit.execute_stream("ping_stream", %{}, fn _ -> nil end),
      Snakepit.GRPC.Client.connect("unix:/nowhere")
    ]

    for {:error, error} <- results, do: IO.puts(Exception.message(error))
    """

    {output, 0} =
      System.cmd("elixir", ["-pa", Path.join(app, "ebin"), "-e", script], stderr_to_stdout: true)

    lines = String.split(output, "\n", trim: true)
    assert length(lines) == 4, output

    for line <- lines do
      assert line =~ "grpc_unavailable"
      assert line =~ "snakepit_nif.so"
      assert line =~ "mix compile"
    end
  end

  for {how, code} <- [
        "loaded again": "true = match?({:error, _}, :code.load_file(native))",
        "loaded again twice":
          "for _ <- 1..2, do: true = match?({:error, _}, :code.load_file(native))",
        "given to cover": ":cover.start(); :cover.compile_beam(native)"
      ] do
    test "a pool continues when the library's module is #{how}" do
      assert reloaded(unquote(code)) == for(_ <- 1..13, do: "ok")
    end
  end

  for {how, code} <- [
        "deleted, as by a compiler": ":code.purge(native); :code.delete(native)",
        "deleted and purged": ":code.purge(native); :code.delete(native); :code.purge(native)"
      ] do
    test "once it was #{how}, every function says that the BEAM must be restarted" do
      lines = reloaded(unquote(code))
      assert length(lines) == 13
      for line <- lines, do: assert(line =~ "restart the BEAM" or line =~ "has stopped", line)
    end
  end

  # Returns what every function returns in a BEAM of its own, whose pools were ready before `code`
  # ran.
  defp reloaded(code) do
    script = """
    Logger.configure(level: :none)
    native = Snakepit.Native
    stdio = [name: Stdio, adapter: Snakepit.Adapters.GenericPythonV2, size: 1]
    for options <- [[name: P, size: 1], stdio] do
      {:ok, _} = Snakepit.Pool.start_link(options)
      :ok = Snakepit.Pool.await_ready(options[:name], 60_000)
    end
    #{code}
    on = [pool: P, timeout: 60_000]

    results = [
      fn -> Snakepit.execute("ping", %{}, on) end,
      fn -> Snakepit.execute("ping", %{}, pool: Stdio, timeout: 60_000) end,
      fn -> Snakepit.execute_in_session("s", "ping", %{}, on) end,
      fn -> Snakepit.execute_stream("ping_stream", %{}, & &1, on) end,
      fn -> "ping_stream" |> Snakepit.stream(%{}, on) |> Enum.to_list() end,
      fn -> Snakepit.start_stream("ping_stream", %{}, on) end,
      fn -> Snakepit.end_session("s", pool: P) end,
      fn -> Snakepit.end_session("s", pool: Stdio) end,
      fn -> Snakepit.info(P) end,
      fn -> Snakepit.health(P) end,
      fn -> Snakepit.stats(P) end,
      fn -> Snakepit.list_workers(Stdio) end,
      fn -> Snakepit.GRPC.Client.encode_args(%{a: 1}) end
    ]

    for call <- results do
      result = try do call.() rescue error -> {:error, error} end
      error = with {:error, error} <- result, do: error
      text = if is_exception(error), do: Exception.message(error), else: "ok"
      IO.puts("result: " <> String.replace(text, "\n", " "))
    end
    """

    ebin = Application.app_dir(:snakepit, "ebin")
    {output, 0} = System.cmd("elixir", ["-pa", ebin, "-e", script], stderr_to_stdout: true)
    for "result: " <> text <- String.split(output, "\n"), do: text
  end
end
