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
end
