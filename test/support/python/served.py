"""A server that ends when its standard input does: with the test that has started it."""

import os
import sys
import threading


def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


threading.Thread(target=end_with_stdin, daemon=True).start()

# The directory of this file would be imported from first.
del sys.path[0]

from snakepit_bridge._cli.main import main  # noqa: E402

sys.exit(main())
