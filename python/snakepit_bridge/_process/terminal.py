"""What a script has of a terminal and a worker has not: somebody who types, and lines that end.

What would ask for input raises a sentence that says what to do. What threads print, and progress
bars that write one line over and over, stay apart from each other and from log lines.
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

# The level prefixes that log lines begin with.
_LEVELS = tuple(f"<{level}>" for level in range(8))
_MAX_LENGTH = 8192


def set_up() -> None:
    """For a worker whose output its parent reads."""
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
    """A stream that a thread's text enters with its line's end, or when it is flushed."""

    #: The thread that has written the beginning of a line, to either stream: they are one pipe.
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
        """At the end: what threads have begun and not ended."""
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
