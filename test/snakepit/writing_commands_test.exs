defmodule Snakepit.WritingCommandsTest do
  # Runs the snippets of guides/writing_commands.md, each section separately, with each kind of
  # worker.
  #
  # The `python` blocks of a section make up `python/my_commands.py`; a block whose first line is
  # a comment with a path becomes that file instead, and pytest runs it if its name begins with
  # `test_`. The `elixir` blocks are evaluated in order and share their variables; `MyApp.Python`
  # is a pool of `MyCommands`. A block of the form `{Snakepit.Pool, options}` adds its options to
  # that pool. Blocks in other languages are not run.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Snakepit.Test.Pools, except: [start_pool!: 0, start_pool!: 1, start_pool_unready!: 1]

  @moduletag :tmp_dir

  @guide Path.expand("../../guides/writing_commands.md", __DIR__)
  @external_resource @guide
  @sections @guide |> File.read!() |> String.split("\n## ") |> tl()

  for section <- @sections,
      blocks =
        Regex.scan(~r/^```(python|elixir)\n(.*?)^```$/ms, section, capture: :all_but_first),
      blocks != [],
      {kind, way} <- ways() do
    [title | _] = String.split(section, "\n", parts: 2)

    @tag blocks: blocks, kind: kind, way: way
    test "#{title}, on #{kind}", %{blocks: blocks, kind: kind, way: way, tmp_dir: dir} do
      python = for ["python", code] <- blocks, do: file(code)
      files = python |> Enum.group_by(&elem(&1, 0), &elem(&1, 1)) |> Map.new(&write(&1, dir))

      # Over stdin and stdout there are no streams.
      elixir =
        for ["elixir", code] <- blocks, kind != :Stdio or not String.contains?(code, "stream") do
          code
        end

      {pools, snippets} = Enum.split_with(elixir, &String.starts_with?(&1, "{Snakepit.Pool,"))

      if Map.has_key?(files, "python/my_commands.py") do
        # The output of the commands is not tested here.
        capture_log(fn ->
          options = Enum.reduce(pools, pool_options(way, dir), &Keyword.merge(&2, given(&1)))
          start_supervised!({Snakepit.Pool, options})
          :ok = await_ready(MyApp.Python)
          evaluate(snippets)
          :ok = stop_supervised({Snakepit.Pool, MyApp.Python})
        end)
      end

      for {name, _path} <- files, name |> Path.basename() |> String.starts_with?("test_") do
        pytest!(name, dir)
      end
    end
  end

  # The file of a block, and its content.
  defp file(code) do
    case Regex.run(~r/\A# (\S+\.py)\n/, code) do
      [_line, path] -> {path, code}
      nil -> {"python/my_commands.py", code}
    end
  end

  defp write({name, parts}, dir) do
    path = Path.join(dir, name)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, Enum.join(parts, "\n\n"))
    {name, path}
  end

  defp pool_options(way, dir) do
    args = [class: "my_commands:MyCommands", paths: ["python"]]

    # As in `Snakepit.Test.Pools`: with patience, and with the Python under test.
    python =
      System.get_env("SNAKEPIT_TEST_PYTHON") || Path.expand("../../.venv/bin/python", __DIR__)

    patient = [startup_timeout: 2 * patience(), timeout: patience(), kill_grace: patience()]
    [name: MyApp.Python, size: 1, adapter_args: args, root: dir, python: python] ++ patient ++ way
  end

  defp given(code) do
    {{Snakepit.Pool, options}, _binding} = Code.eval_string(code)
    options
  end

  defp evaluate(snippets) do
    Enum.reduce(snippets, [], fn code, binding ->
      {_value, binding} = Code.eval_string(code, binding, file: @guide)
      binding
    end)
  end

  defp pytest!(name, dir) do
    python = Path.expand("../../.venv/bin/python", __DIR__)
    bridge = Path.expand("../../python", __DIR__)
    env = [{"PYTHONPATH", "#{bridge}:#{Path.join(dir, "python")}"}]
    args = ["-m", "pytest", "-q", "-p", "no:cacheprovider", name]
    {output, status} = System.cmd(python, args, cd: dir, env: env, stderr_to_stdout: true)
    assert status == 0, output
  end
end
