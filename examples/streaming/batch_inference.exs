# mix run examples/streaming/batch_inference.exs
#
# A model that scikit-learn trains when its worker starts reads handwritten digits; what it thinks of
# each image comes as a `Stream`. README.md tells what to install.

{:ok, _} =
  Snakepit.Pool.start_link(
    name: Digits,
    size: 1,
    startup_timeout: 120_000,
    adapter_args: [class: "digits:Digits", paths: [Path.join(__DIR__, "python")]],
    python: Path.join(__DIR__, ".venv/bin/python"),
    # Of so small a model each thread but the first would only wait for the others.
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

IO.puts("\nThe five least sure of all:")
images = "batch_inference" |> Snakepit.stream(%{}, pool: Digits) |> Enum.to_list()
images |> Enum.sort_by(& &1["confidence"]) |> Enum.take(5) |> Enum.each(show)

right = Enum.count(images, &(&1["prediction"] == &1["label"]))
IO.puts("\n#{right} of #{length(images)} images read right")
