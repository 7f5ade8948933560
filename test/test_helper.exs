# Workers need their Python packages; what is there already is left alone.
Mix.Task.run("snakepit.setup")
ExUnit.start(capture_log: true, assert_receive_timeout: 5_000)
