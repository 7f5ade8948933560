# mix run examples/streaming/batch_inference.exs
#
# Reads handwritten digits with a scikit-learn model, which is trained when its worker starts. The
# predictions arrive as a `Stream`, one per image. ../README.md says what to install.

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Digits,
    size: 1,
    startup_timeout: 120_000,
    adapter_args: [class: "digits:Digits", paths: [Path.join(__DIR__, "python")]],
    python: Path.join(__DIR__, "../.venv/bin/python"),
    # For such a small model, further threads would only wait for each other.
    env: %{"OPENBLAS_NUM_THREADS" => "1"}
  )

:ok = Snakepit.Pool.await_ready(Digits, 120_000)

show = fn image ->
  percent = round(100 * image["confidence"])
  verdict = if image["prediction"] == image["label"], do: "right", else: "it is #{image["label"]}"
  IO.puts("image #{image["image"]}: #{image["prediction"]}, #{percent}% sure (#{verdict})")
end

IO.puts("The first five:")

"batch_inference"
|> Snakepit.stream(%{batch_size: 5}, pool: Digits)
|> Enum.take(5)
|> Enum.each(show)

IO.puts("\nThe five least certain of all:")
images = "batch_inference" |> Snakepit.stream(%{}, pool: Digits) |> Enum.to_list()
images |> Enum.sort_by(& &1["confidence"]) |> Enum.take(5) |> Enum.each(show)

right = Enum.count(images, &(&1["prediction"] == &1["label"]))
IO.puts("\n#{right} of #{length(images)} images read correctly")
