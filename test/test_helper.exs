# Workers need their Python packages; what is there already is left alone.
Mix.Task.run("snakepit.setup")

# No test fails because the machine is slow: only one that waits in vain gets to these limits.
ExUnit.start(
  capture_log: true,
  assert_receive_timeout: Snakepit.Test.Pools.patience(),
  timeout: 10 * Snakepit.Test.Pools.patience(),
  formatters: [Snakepit.Test.Formatter]
)

if Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :start, 0),
  do: :telemetry.start()
