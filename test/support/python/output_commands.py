"""Commands that print, and that end their process."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from snakepit_bridge import Adapter, command


class OutputCommands(Adapter):
    @command
    def pid(self) -> int:
        return os.getpid()

    @command
    def flood(self, started: str) -> None:
        """Prints for as long as the process lives."""
        line = "x" * 200 + "\n"

        def print_on() -> None:
            while True:
                sys.stderr.write(line)

        threading.Thread(target=print_on, daemon=True).start()
        Path(started).touch()

    @command
    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(2, data) :]

    @command
    def log(self, text: str) -> None:
        logging.getLogger("mine").warning(text)

    @command
    def leave(self, status: int, words: bytes = b"") -> None:
        self.write(words)
        os._exit(status)

    @command
    def kill(self, number: int) -> None:
        os.kill(os.getpid(), number)
        signal.pause()

    @command
    def segfault(self) -> None:
        ctypes.string_at(0)

    @command
    def variables(self) -> dict[str, str]:
        """The environment as bytes, in hexadecimal."""
        return {name.hex(): value.hex() for name, value in os.environb.items()}


class BadLastWords(Adapter):
    def __init__(self) -> None:
        os.write(2, b"\xfc\n" + "ä".encode() * 5000 + b"\n")
        os._exit(3)
