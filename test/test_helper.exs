# Workers need their Python packages; packages that are installed are left alone.
Mix.Task.run("snakepit.setup", ["--grpcio"])

# Compiling its modules takes most of the time in which a worker starts, and Python does it at each start where it must
# not write bytecode (PYTHONDONTWRITEBYTECODE). Bytecode with the hash of its source is never used for another one.
python = System.get_env("SNAKEPIT_TEST_PYTHON") || Path.expand(".venv/bin/python")
compile = ~w(-m compileall -q --invalidation-mode checked-hash priv/python test/support/python)
{_, 0} = System.cmd(python, compile, stderr_to_stdout: true)

# No test may fail because the machine is slow: only a test that waits in vain reaches these
# limits.
ExUnit.start(
  capture_log: true,
  assert_receive_timeout: Snakepit.Test.Pools.patience(),
  timeout: 10 * Snakepit.Test.Pools.patience(),
  formatters: [Snakepit.Test.Formatter]
)

Snakepit.Test.Log.start()

if Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :start, 0),
  do: :telemetry.start()
