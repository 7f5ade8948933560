# Workers need their Python packages; packages that are installed are left alone.
Mix.Task.run("snakepit.setup", ["--grpcio"])

# No test may fail because the machine is slow: only a test that waits in vain reaches these
# limits.
ExUnit.start(
  capture_log: true,
  assert_receive_timeout: Snakepit.Test.Pools.patience(),
  timeout: 10 * Snakepit.Test.Pools.patience(),
  formatters: [Snakepit.Test.Formatter]
)

if Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :start, 0),
  do: :telemetry.start()
