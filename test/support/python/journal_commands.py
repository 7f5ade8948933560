"""Short commands that leave a mark each time they run, some of which end their worker."""

from __future__ import annotations

import os
import signal

from snakepit_bridge import Adapter, command


class Marks(Adapter):
    """Appends to the file named by `MARKS`."""

    def __init__(self) -> None:
        self._marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND)

    @command
    def mark(self, number: int, dies: bool = False) -> int:  # noqa: FBT001, FBT002
        os.write(self._marks, b"%d\n" % number)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    @command
    def maps(self) -> str:
        """The names of the files that this process has mapped into its memory."""
        with open("/proc/self/maps") as maps:
            return maps.read()

    @command
    def variable(self) -> str:
        return os.environ.get("SNAKEPIT_START_JOURNAL", "none")
