defmodule Mix.Tasks.Snakepit.Doctor do
  @shortdoc "Checks everything that pools need, and says how to fix what is wrong"

  @moduledoc """
  Checks everything that the pools of the project need, and says how to fix what is wrong.

      $ mix snakepit.doctor
      ok    Elixir            1.14.0, Erlang/OTP 25
      ok    native library    deps/snakepit/priv/native/snakepit_nif.so for x86_64-pc-linux-gnu
      ...
      pool MyApp.Python
      ok    options           valid
      ok    executable        .venv/bin/python
      FAIL  Python            ...
              fix: mix snakepit.setup

  The exit status is 1 if a check has failed. The output is plain text, for CI as well.

  The checks are: Elixir and Erlang/OTP, the native library and the launcher, the temporary
  directory for sockets, the configuration, the limits for open files and processes, and for each
  pool its options, its Python and virtual environment, the bridge and its version, the server, the
  import of its command class, and one worker that is started and called.

  The pools are that of `config :snakepit`, and those that the project's applications start. To find
  these, the task starts the applications and stops them again. If there is no pool, the built-in
  commands are tried.

  ## Options

    * `--pool` - checks only the pool of this name, `--pool MyApp.Python`
    * `--no-start` - starts no application: checks only the pool of `config :snakepit`
  """
  use Mix.Task

  alias Mix.Snakepit.{Check, Doctor}

  @impl true
  def run(args) do
    Mix.Snakepit.run(__MODULE__, args, [pool: :string, start: :boolean], fn options, rest ->
      Mix.Snakepit.no_arguments!(__MODULE__, rest)
      failed = Doctor.run(options, &print/1)
      Mix.shell().info("\n" <> summary(failed))
      if failed > 0, do: Mix.Snakepit.fail()
    end)
  end

  defp print(%Check{} = check), do: Mix.shell().info(Check.format(check))
  defp print(heading), do: Mix.shell().info(heading)

  defp summary(0), do: "No check failed."
  defp summary(1), do: "1 check failed."
  defp summary(failed), do: "#{failed} checks failed."
end
