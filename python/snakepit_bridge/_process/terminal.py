"""Stands in for the terminal that a worker does not have.

Asking for input raises an error that says what to do. The lines of threads, and progress bars that
rewrite one line, are kept apart from each other and from log lines.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
from typing import Any, NoReturn, Optional

_NO_INPUT = (
    "a worker has no terminal, so nobody can type into its stdin: pass what the command needs as "
    "an argument"
)
_NO_DEBUGGER = (
    "; to debug, call debugpy.listen(5678) and debugpy.wait_for_client() before breakpoint(), and "
    'attach an editor: the guide "Writing commands" has an example'
)

# The level prefixes of log lines.
_LEVELS = tuple(f"<{level}>" for level in range(8))
_MAX_LENGTH = 8192


def set_up() -> None:
    """Replaces stdin, stdout and stderr for a worker whose parent reads its output."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(_NoInput()), encoding="utf-8")
    sys.breakpointhook = _breakpoint
    for name in ("stdout", "stderr"):
        given = getattr(sys, name)
        if isinstance(given, io.TextIOWrapper):
            lines = Lines(given.detach(), given.encoding)
            setattr(sys, name, lines)
            setattr(sys, f"__{name}__", lines)
            atexit.register(lines.flush_all)


class _NoInput(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0

    def readinto(self, _buffer: Any) -> NoReturn:
        raise RuntimeError(_NO_INPUT + _NO_DEBUGGER)


def _breakpoint(*args: Any, **keywords: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT", "") not in ("", "pdb.set_trace"):
        return sys.__breakpointhook__(*args, **keywords)  # noqa: T100
    raise RuntimeError(f"breakpoint(): a worker has no terminal{_NO_DEBUGGER}")


class Lines(io.TextIOWrapper):
    """A stream that writes a thread's text when its line ends, or when it is flushed."""

    #: The thread that has written the beginning of a line to either stream: they share one pipe.
    _unfinished: Optional[int] = None

    def __init__(self, buffer: Any, encoding: str) -> None:
        super().__init__(buffer, encoding, errors="backslashreplace", line_buffering=True)
        self._begun: dict[int, str] = {}

    def write(self, text: str, /) -> int:
        thread = threading.get_ident()
        end = text.rfind("\n") + 1
        whole = self._begun.pop(thread, "") + text[:end] if end else ""
        rest = text[end:] if end else self._begun.pop(thread, "") + text
        if len(rest) > _MAX_LENGTH:
            whole, rest = whole + rest, ""
        if rest:
            self._begun[thread] = rest
        if whole:
            self._emit(whole, thread)
        return len(text)

    def flush(self) -> None:
        begun = self._begun.pop(threading.get_ident(), "")
        if begun:
            self._emit(begun, threading.get_ident())
        super().flush()

    def flush_all(self) -> None:
        """At exit: writes the unfinished lines of all threads."""
        while self._begun:
            thread, begun = self._begun.popitem()
            self._emit(begun, thread)
        super().flush()

    def _emit(self, text: str, thread: int) -> None:
        unfinished = Lines._unfinished
        if unfinished is not None and (unfinished != thread or text.startswith(_LEVELS)):
            text = "\n" + text
        Lines._unfinished = None if text.endswith("\n") else thread
        super().write(text)
