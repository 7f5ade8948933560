# Workers need their Python packages; what is there already is left alone.
Mix.Task.run("snakepit.setup")
ExUnit.start(capture_log: true, assert_receive_timeout: 5_000)

if Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :start, 0),
  do: :telemetry.start()
