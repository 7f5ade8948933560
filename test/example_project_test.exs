defmodule Snakepit.ExampleProjectTest do
  use ExUnit.Case, async: true

  @root File.cwd!()
  @example Path.join(@root, "examples/word_count")

  setup do
    build_path =
      Path.join(
        System.tmp_dir!(),
        "snakepit_example_#{System.pid()}_#{System.unique_integer([:positive])}"
      )

    on_exit(fn -> File.rm_rf!(build_path) end)
    {:ok, build_path: build_path}
  end

  test "a project that depends on this one builds and passes its tests", %{build_path: build_path} do
    {output, status} =
      System.cmd("mix", ["test"],
        cd: @example,
        env: [
          {"MIX_ENV", "test"},
          {"MIX_BUILD_PATH", Path.join(build_path, "test")},
          {"PATH", Path.join(@root, ".venv/bin") <> ":" <> System.get_env("PATH")}
        ],
        stderr_to_stdout: true
      )

    assert status == 0, output
    assert output =~ Snakepit.Test.Project.passed()
  end
end
