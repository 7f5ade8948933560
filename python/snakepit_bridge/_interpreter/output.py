"""What code prints: a bounded buffer, which its caller reads, in place of stdout and stderr."""

from __future__ import annotations

import contextvars
import sys
import threading
from typing import Any, Optional

#: The number of characters that may wait for the caller. A `print` beyond it waits.
_MAX_WAITING = 65_536

#: The output of the code that is running.
current: contextvars.ContextVar[Optional[Output]] = contextvars.ContextVar("output", default=None)


class Output:
    """The text that code has printed and its caller has not read yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._parts: list[str] = []
        self._size = 0
        self._ended = False

    def write(self, text: str) -> None:
        """Adds text; waits while the caller is behind. Does nothing after the end."""
        for start in range(0, len(text), _MAX_WAITING):
            part = text[start : start + _MAX_WAITING]
            with self._changed:
                while self._size and self._size + len(part) > _MAX_WAITING and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                self._parts.append(part)
                self._size += len(part)
                self._changed.notify_all()

    def read(self) -> str:
        """Waits for text and returns all there is; returns "" at the end."""
        with self._changed:
            while not self._parts and not self._ended:
                self._changed.wait()
            text = "".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._changed.notify_all()
            return text

    def end(self) -> None:
        """Ends the output: what is there can still be read."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class _Redirected:
    """A standard stream that gives what code prints to its caller, and the rest to `given`."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def write(self, text: str) -> int:
        output = current.get()
        if output is None:
            written: int = self.given.write(text)
            return written
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        output.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.given, name)


def install() -> None:
    """Redirects stdout and stderr, once in a process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Redirected):
            setattr(sys, name, _Redirected(stream))


def remove() -> None:
    """Undoes `install`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, _Redirected):
            setattr(sys, name, stream.given)
