defmodule Snakepit.SupportTest do
  # Tests of the test support itself.
  use ExUnit.Case, async: true

  alias Snakepit.Test.Formatter

  @bin Path.expand("../bin", __DIR__)

  test "prints a bounded amount for a failed test" do
    logs = String.duplicate("of another test\n", 100_000) <> "the last line"
    large = String.duplicate("x", 1_000_000)
    assertion = %ExUnit.AssertionError{left: large, right: {:ok, 1}, message: large}
    failures = [{:error, assertion, []}, {:exit, {:timeout, large}, []}]

    test = Formatter.bounded(%ExUnit.Test{state: {:failed, failures}, logs: logs})
    assert {:failed, [{:error, error, []}, {:exit, reason, []}]} = test.state
    assert %ExUnit.AssertionError{right: {:ok, 1}} = error

    for text <- [test.logs, error.left, error.message, reason],
        do: assert(byte_size(text) < 25_000)

    assert test.logs =~ "lines before these are left out\n" and test.logs =~ "\nthe last line"
  end

  test "prints short output unchanged" do
    failures = [{:error, %ExUnit.AssertionError{left: 1, right: 2, message: "no"}, []}]
    test = %ExUnit.Test{state: {:failed, failures}, logs: "one\ntwo\n"}
    assert Formatter.bounded(test) == test
  end

  test "lists the failed tests at the end" do
    assert Formatter.list_of_failed([]) == ""

    failed = [
      {"test/b_test.exs", 7, :"test b", [{:exit, :boom, []}]},
      {"test/a_test.exs", 3, :"test a", [{:error, %RuntimeError{message: "no\nmore"}, []}]}
    ]

    assert Formatter.list_of_failed(failed) == """

           Failed:
             test/a_test.exs:3 test a: ** (RuntimeError) no more
             test/b_test.exs:7 test b: ** (exit) :boom
           """
  end

  test "bin/each runs all commands, and tells failed ones from skipped ones" do
    run = &System.cmd(Path.join(@bin, "each"), &1, stderr_to_stdout: true)
    {output, 0} = run.(["first", "true", "second", "exit 77"])
    assert output =~ ~r/^first +passed, .*\nsecond +SKIPPED, see above, /m

    {output, 1} = run.(["first", "echo why; exit 3", "second", "true"])

    assert output =~
             ~r/^== first, its last lines:\nwhy\n\nfirst +FAILED with status 3, .*\nsecond +passed, /m
  end

  test "bin/try-suite says why it does not run" do
    env = [{"DEBIAN_MIRROR", "http://127.0.0.1:1"}]

    {output, 77} =
      System.cmd(Path.join(@bin, "try-suite"), ["trixie"], env: env, stderr_to_stdout: true)

    assert output =~ ~r/^bin\/try-suite: SKIPPED: trixie is not tested, because /m
  end
end
