defmodule WordCountTest do
  use ExUnit.Case

  doctest WordCount

  @moduletag :tmp_dir

  test "counts words of any script" do
    assert WordCount.count("Über, über, naïve; don't!", top: 1) ==
             {:ok, %{words: 4, top: [{"über", 2}]}}
  end

  test "a file is counted step by step", %{tmp_dir: tmp_dir} do
    path = Path.join(tmp_dir, "rhyme.txt")
    File.write!(path, "row row row\nyour boat\ngently\n")

    assert WordCount.count_file(path, &send(self(), {&1, &2}), every: 2, top: 1) == :ok

    assert_received {2, %{words: 5, top: [{"row", 3}]}}
    assert_received {3, %{words: 6, top: [{"row", 3}]}}
    refute_received {_, _}
  end

  test "the counting of a file can be stopped", %{tmp_dir: tmp_dir} do
    path = Path.join(tmp_dir, "long.txt")
    File.write!(path, String.duplicate("word\n", 1000))
    test = self()

    assert WordCount.count_file(path, fn lines, _ -> send(test, lines) && :halt end, every: 1) ==
             :ok

    assert_received 1
    refute_received 2
  end

  test "an error in Python is an error in Elixir", %{tmp_dir: tmp_dir} do
    path = Path.join(tmp_dir, "missing.txt")

    assert {:error, %Snakepit.Error{reason: :python_error} = error} =
             WordCount.count_file(path, fn _, _ -> :ok end)

    assert Exception.message(error) =~ "FileNotFoundError"
  end
end
