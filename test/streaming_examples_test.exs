defmodule Snakepit.StreamingExamplesTest do
  use ExUnit.Case, async: true

  import Snakepit.Test.Pools

  @root File.cwd!()
  @examples Path.join(@root, "examples/streaming")
  @venv Path.join(@root, "examples/.venv")
  @learning [python: Path.join(@venv, "bin/python"), env: %{"OPENBLAS_NUM_THREADS" => "1"}]
  @prices Path.join(@root, "examples/data/wti.csv")

  # Packages that only the examples need are in a separate environment.
  setup_all do
    requirements = Path.join(@root, "examples/requirements.txt")
    Mix.Tasks.Snakepit.Setup.run(["--venv", @venv, "--requirements", requirements])
    :ok
  end

  defp start_commands!(class, options \\ []) do
    args = [class: class, paths: [Path.join(@examples, "python")]]
    start_pool!([adapter_args: args] ++ options)
  end

  defp run(script, args \\ []) do
    {output, status} =
      System.cmd("mix", ["run", script | args],
        cd: @root,
        env: [{"MIX_ENV", "test"}],
        stderr_to_stdout: true
      )

    assert status == 0, output
    output
  end

  describe "batch_inference" do
    test "yields the prediction and the confidence for each image" do
      pool = start_commands!("digits:Digits", @learning)

      images =
        "batch_inference" |> Snakepit.stream(%{batch_size: 7}, pool: pool) |> Enum.to_list()

      assert Enum.map(images, & &1["image"]) == Enum.to_list(0..539)
      assert Enum.all?(images, &(&1["prediction"] in 0..9 and &1["confidence"] > 0.1))
      right = Enum.count(images, &(&1["prediction"] == &1["label"]))
      assert right / 540 > 0.9
    end

    test "the script shows the predictions" do
      output = run("examples/streaming/batch_inference.exs")
      assert output =~ ~r/image 0: \d, \d+% sure \((right|it is \d)\)/
      assert output =~ ~r/5\d\d of 540 images read correctly/
    end
  end

  describe "train_model" do
    test "lowers the loss, and keeps the model when the stream is stopped" do
      pool = start_commands!("training:Training", @learning)
      [first | rest] = "train_model" |> Snakepit.stream(%{}, pool: pool) |> Enum.take(15)
      assert %{"epoch" => 15, "loss" => loss} = List.last(rest)
      assert loss < first["loss"] / 5
      assert {:ok, %{"result" => accuracy}} = Snakepit.execute("accuracy", %{}, pool: pool)
      assert accuracy > 0.9
    end

    test "the script stops it when the loss no longer falls" do
      output = run("examples/streaming/train_model.exs")
      epochs = Regex.scan(~r/^epoch \d+: loss \d\.\d+/m, output)
      assert length(epochs) in 10..99
      assert output =~ ~r/9\d% of the held-out images are read correctly/
    end
  end

  describe "indicators" do
    @describetag :tmp_dir

    setup do
      %{
        pool: start_commands!("indicators:Indicators")
      }
    end

    defp indicators(prices, pool, dir) do
      path = Path.join(dir, "prices.csv")
      rows = for {price, day} <- Enum.with_index(prices, 1), do: "#{day},#{price}\r\n"
      File.write!(path, ["day,price\r\n" | rows])
      "indicators" |> Snakepit.stream(%{path: path}, pool: pool) |> Enum.to_list()
    end

    test "RSI is the share of gains in all changes", %{pool: pool, tmp_dir: dir} do
      prices = Enum.scan([10 | List.flatten(List.duplicate([2, -1], 7))], &+/2)
      days = indicators(prices, pool, dir)
      assert Enum.map(Enum.take(days, 14), & &1["rsi"]) == List.duplicate(nil, 14)
      # Seven gains of 2 against seven losses of 1.
      assert_in_delta List.last(days)["rsi"], 100 * 14 / 21, 1.0e-9
      assert List.last(indicators(1..20, pool, dir))["rsi"] == 100
    end

    test "MACD is the difference of its two averages", %{pool: pool, tmp_dir: dir} do
      # An average over n days trails a steady rise by (n - 1) / 2 days.
      day = List.last(indicators(1..400, pool, dir))
      assert_in_delta day["macd"], (26 - 12) / 2, 1.0e-6
      assert_in_delta day["signal"], (26 - 12) / 2, 1.0e-6
    end

    test "covers every day with a price in a real file", %{pool: pool} do
      days = "indicators" |> Snakepit.stream(%{path: @prices}, pool: pool) |> Enum.to_list()
      priced = @prices |> File.stream!() |> Enum.count(&(&1 =~ ~r/,\d/))
      assert length(days) == priced
      assert %{"date" => "1/2/1986", "price" => 25.56} = hd(days)
      assert Enum.all?(Enum.drop(days, 14), &(&1["rsi"] >= 0 and &1["rsi"] <= 100))
    end

    test "the script shows where the MACD has crossed its signal" do
      output = run("examples/streaming/indicators.exs", [@prices])

      assert [_ | _] =
               crossings =
               Regex.scan(~r"^\d+/\d+/\d{4}, \d+\.\d\d, \d+\.\d\d, -?\d+\.\d\d$"m, output)

      assert length(crossings) == 10
    end
  end

  describe "tail_and_analyze" do
    @describetag :tmp_dir

    setup do
      %{pool: start_commands!("logs:Logs")}
    end

    test "follows a file while it grows, until it is cancelled", %{pool: pool, tmp_dir: dir} do
      path = Path.join(dir, "log")
      File.write!(path, "ERROR one\nINFO two\nERR")
      args = %{path: path, patterns: %{error: "^ERROR", number: "\\d"}}
      {:ok, call} = Snakepit.start_stream("tail_and_analyze", args, pool: pool)
      assert %{"number" => 1, "line" => "ERROR one", "patterns" => ["error"]} = match(call)

      File.write!(path, "OR three 3\n", [:append])
      assert %{"number" => 3, "line" => "ERROR three 3"} = found = match(call)
      assert found["patterns"] == ["error", "number"]
      assert found["seen"] == %{"error" => 2, "number" => 1}

      Snakepit.cancel(call)
      # It is the pool's only worker: if it answers, it has released the file.
      assert {:ok, _} = Snakepit.execute("ping", %{}, pool: pool)
      assert Process.info(self(), :messages) == {:messages, []}
    end

    test "the script follows the log that it writes" do
      output = run("examples/streaming/tail_and_analyze.exs")
      assert output =~ ~r/^line \d+, error: ERROR ValueError: .*README.md, line 3/m
      assert output =~ "large: INFO 26115 rows"
      assert output =~ "lines with an error: 1, about a large file: 1"
    end

    defp match(%{ref: ref}) do
      assert_receive {:snakepit, ^ref, {:chunks, [found]}}
      found
    end
  end

  test "process_large_dataset: the demo summarizes a real file" do
    output = run("examples/demo.exs")
    assert output =~ "compute: 6 * 7 = 42"
    assert output =~ ~r/^wind_speed\s+26,111\s+4/m
    assert output =~ "26,115 rows"
  end
end
