defmodule Snakepit.ExamplesTest do
  # Runs the scripts of examples/ as their README says.
  use ExUnit.Case, async: true

  @root File.cwd!()

  @moduletag :tmp_dir

  setup_all do
    requirements = Path.join(@root, "examples/requirements.txt")
    venv = Path.join(@root, "examples/.venv")
    Mix.Tasks.Snakepit.Setup.run(["--venv", venv, "--requirements", requirements])
    :ok
  end

  defp run(example, args \\ []) do
    script = "examples/#{example}/#{example}.exs"
    options = [cd: @root, env: [{"MIX_ENV", "test"}], stderr_to_stdout: true]
    {output, status} = System.cmd("mix", ["run", script | args], options)
    assert status == 0, output
    output
  end

  test "semantic_search finds paragraphs that answer the question in other words" do
    output = run("semantic_search", ["Which file system permissions do sockets need?"])
    assert output =~ ~r/^\d+ paragraphs of \d+ guides$/m
    assert [first | _] = Regex.scan(~r/^  0\.\d\d (\w+\.md): .+$/m, output)
    assert ["  0." <> _, guide] = first
    assert guide in ["configuration.md", "deployment.md", "reliability.md", "adapters.md"]
    assert output =~ "2,000 questions of 64 callers took"

    assert [_, together] =
             Regex.run(~r/^questions that were answered together: up to (\d+)$/m, output)

    assert String.to_integer(together) in 2..32
    assert output =~ "devices: 0, 1\n"
    assert output =~ ~r/^workers that were replaced meanwhile: [12]$/m
  end

  test "shared_vectors: workers that map a file share its memory" do
    output = run("shared_vectors", ["10000", "3"])
    [read, mapped] = for how <- ~w(read mapped), do: megabytes(output, how)
    # 40 MB in each of three workers, and once.
    assert_in_delta read - mapped, 80, 10
  end

  defp megabytes(output, how) do
    assert [[_, megabytes]] = Regex.scan(~r/^#{how}: (\d+) MB$/m, output)
    String.to_integer(megabytes)
  end

  test "token_stream is cancelled after three sentences, and frees its worker" do
    output = run("token_stream")

    assert [text, words] =
             Regex.run(~r/(?:\A|\n)([^\n]*)\n\ncancelled after (\d+) words$/m, output,
               capture: :all_but_first
             )

    assert length(String.split(text)) == String.to_integer(words)
    assert text |> String.split() |> Enum.count(&String.ends_with?(&1, ".")) == 3
    assert output =~ "the worker is free: it has written 2 more words"
  end

  test "thumbnails are pictures of the sizes that were asked for", %{tmp_dir: dir} do
    assert run("thumbnails", [dir]) =~ "6 thumbnails in #{dir}"

    for name <- ~w(china flower), size <- [64, 128, 256] do
      jpeg = File.read!(Path.join(dir, "#{name}-#{size}.jpg"))
      assert <<0xFF, 0xD8, _::binary>> = jpeg
      # The frame's header has the height and the width.
      assert [_, <<_length::16, 8, ^size::16, ^size::16, _::binary>>] =
               :binary.split(jpeg, <<0xFF, 0xC0>>)
    end
  end

  test "training_sessions: each user has a model of their own" do
    output = run("training_sessions")
    accuracies = for user <- ~w(ada bob), do: last_accuracy(output, user)
    assert [ada, bob] = accuracies
    assert ada > 70 and bob < 30
    assert output =~ "sessions left: 0"
  end

  defp last_accuracy(output, user) do
    [[_, accuracy]] =
      ~r/^#{user} has seen 800 images, and reads (\d+)% of others correctly$/m
      |> Regex.scan(output)

    String.to_integer(accuracy)
  end

  test "plots arrive as PNG files", %{tmp_dir: dir} do
    path = Path.join(dir, "weather.png")
    assert run("plots", [path]) =~ "bytes in #{path}"

    assert <<137, "PNG\r\n", 26, 10, _::32, "IHDR", width::32, height::32, _::binary>> =
             File.read!(path)

    assert {width, height} == {480, 528}
  end
end
