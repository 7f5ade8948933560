"""Commands that print, log, and ask for input that a worker does not have."""

from __future__ import annotations

import code
import getpass
import logging
import pdb  # noqa: T100
import sys
import threading
from typing import Any

from snakepit_bridge import BuiltinAdapter, command

logging.basicConfig(level=logging.DEBUG, format="%(levelname)s of %(name)s: %(message)s")
log = logging.getLogger("terminal")


class Slow:
    """Other threads take turns while it is printed."""

    def __init__(self, text: str, turn: threading.Barrier) -> None:
        self.text = text
        self.turn = turn

    def __str__(self) -> str:
        self.turn.wait(60)
        return self.text


class Terminal(BuiltinAdapter):
    def __init__(self) -> None:
        log.info("made")

    @command
    def log(self) -> None:
        log.debug("a detail")
        log.warning("two\nlines")

    @command
    def threads(self) -> None:
        """Prints two lines whose parts take turns."""
        turn = threading.Barrier(2)
        threads = [
            threading.Thread(target=print, args=(f"{name}1", Slow(f"{name}2", turn), f"{name}3"))
            for name in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @command
    def bar(self) -> None:
        for done in (10, 20):
            sys.stderr.write(f"\r{done}%|{'#' * done}")
            sys.stderr.flush()
            log.error("in between %s", done)
        sys.stderr.write("\r100%\n")

    @command
    def ask(self, how: str) -> Any:
        if how == "breakpoint":
            breakpoint()  # noqa: T100
        elif how == "pdb":
            pdb.set_trace()  # noqa: T100
        return {
            "pdb": lambda: None,
            "breakpoint": lambda: None,
            "input": lambda: input("name? "),
            "read": sys.stdin.read,
            "readline": sys.stdin.readline,
            "bytes": sys.stdin.buffer.read,
            "lines": lambda: list(sys.stdin),
            "interact": code.interact,
            "getpass": getpass.getpass,
        }[how]()
