"""What code prints: a bounded buffer, which its caller reads, in place of stdout and stderr."""

from __future__ import annotations

import contextvars
import queue
import sys
from typing import Any, Optional

#: The number of characters that may wait for the caller. A `print` beyond it waits.
_MAX_WAITING = 65_536

#: The output of the code that is running.
current: contextvars.ContextVar[Optional[Output]] = contextvars.ContextVar("output", default=None)


class Output:
    """The text that code has printed and its caller has not read yet.

    `KeyboardInterrupt` may be raised in the thread of the code between any two steps, also in
    `write`. No lock is held there that it would leave locked: what threads share are queues, each
    operation of which is one step.
    """

    def __init__(self) -> None:
        #: Ends with an empty text.
        self._parts: queue.SimpleQueue[str] = queue.SimpleQueue()
        #: Wakes a `write` that waits, which passes it on to the next.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._written = 0
        self._read = 0
        self._ended = False

    def write(self, text: str) -> None:
        """Adds text; waits while the caller is behind. Does nothing after the end."""
        for start in range(0, len(text), _MAX_WAITING):
            part = text[start : start + _MAX_WAITING]
            while not self._ended and not self._has_room(len(part)):
                self._room.get()
            # Others may wait, too.
            self._wake()
            if self._ended:
                return
            self._written += len(part)
            self._parts.put(part)

    def _has_room(self, size: int) -> bool:
        waiting = self._written - self._read
        return waiting <= 0 or waiting + size <= _MAX_WAITING

    def _wake(self) -> None:
        if self._room.empty():
            self._room.put(None)

    def read(self) -> str:
        """Waits for text and returns all there is; returns "" at the end."""
        parts = [self._parts.get()]
        while parts[-1] and not self._parts.empty():
            parts.append(self._parts.get())
        if not parts[-1]:
            # The next read ends, too.
            self._parts.put("")
        text = "".join(parts)
        self._read += len(text)
        self._wake()
        return text

    def end(self) -> None:
        """Ends the output: what is there can still be read."""
        self._ended = True
        self._parts.put("")
        self._wake()


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
