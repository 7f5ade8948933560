"""Describes an exception: message, traceback, frames, notes, cause.

The user may have defined its class: every access may raise anything, SystemExit included. Each
part is read separately, and a part that raises is replaced by a text that says so.
"""

from __future__ import annotations

import builtins
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Optional

from snakepit_bridge._errors.memory_limit import address_space_limit
from snakepit_bridge._types.names import attempt, qualified_name, text_of

#: File, line, function and source.
Frame = tuple[str, int, str, str]

#: The number of frames of a deep traceback, taken from both ends.
_MAX_FRAMES = 40
_MAX_SOURCE_LENGTH = 200
#: A longer traceback text is not cut in the middle of its frames, but written by `_chain`.
_MAX_TEXT_LENGTH = 16_000
_MAX_LAST_LENGTH = 1000
#: The number of chained and grouped exceptions up to which Python formats the text.
_MAX_FORMATTED = 100
#: The number of exceptions of a chain that `_chain` writes.
_MAX_CHAINED = 8
_MAX_LINE = 2**31 - 1

# New in Python 3.11.
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", None)

# The frames of these modules are above the command's own.
_CALLERS = ("snakepit_bridge._threads.", "snakepit_bridge._interpreter.")

_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"


def _getter(name: str) -> Callable[[BaseException], Any]:
    # The interpreter's own attribute: a class may define a property of that name, which may raise.
    getter: Callable[[BaseException], Any] = BaseException.__dict__[name].__get__
    return getter


cause_of = _getter("__cause__")
_context_of = _getter("__context__")
_traceback_of = _getter("__traceback__")
_hides_context = _getter("__suppress_context__")


def is_task_cancelled(kind: type[BaseException]) -> bool:
    """Whether it is asyncio's exception for a cancelled task."""
    # If asyncio is not imported, its exception was not raised.
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and issubclass(kind, asyncio.CancelledError)


def shown(error: BaseException) -> str:
    """Returns the type and the message in one line."""
    raised = Raised(error)
    message = raised.message()
    return f"{qualified_name(type(error))}: {message}" if message else qualified_name(type(error))


class Raised:
    """An exception and its traceback, which begins in the command's own code."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self._traceback: Optional[TracebackType] = _traceback_of(error)
        while self._traceback is not None and _is_ours(self._traceback):
            self._traceback = self._traceback.tb_next

    def message(self) -> str:
        failed = f"<{qualified_name(type(self.error))}.__str__ failed>"
        message = attempt(lambda: text_of(self.error), failed)
        if not issubclass(type(self.error), MemoryError):
            return message
        limit = attempt(address_space_limit, None)
        return message if limit is None else f"{message or 'out of memory'} ({_limited(limit)})"

    def text(self) -> str:
        """Returns the text that Python prints, or a similar one if Python cannot."""
        if _is_few(self.error):
            formatted = attempt(lambda: _formatted(self.error, self._traceback), "")
            if 0 < len(formatted) <= _MAX_TEXT_LENGTH:
                return formatted
        return "".join(reversed(list(self._chain())))

    def frames(self) -> list[Frame]:
        steps = list(_steps(self._traceback))
        if len(steps) > _MAX_FRAMES:
            steps = steps[: _MAX_FRAMES // 4] + steps[-_MAX_FRAMES * 3 // 4 :]
        return [_frame(frame, line) for frame, line in steps]

    def notes(self) -> list[str]:
        return attempt(
            lambda: [
                str.__str__(note)
                for note in list.__iter__(_notes(self.error))
                if issubclass(type(note), str)
            ],
            [],
        )

    def _chain(self) -> Iterator[str]:
        raised = self
        for _ in range(_MAX_CHAINED):
            yield raised._plain()
            error = raised.error
            before, joint = cause_of(error), _CAUSED
            if before is None and not _hides_context(error):
                before, joint = _context_of(error), _DURING
            if before is None:
                return
            yield joint
            raised = Raised(before)
        yield "[...]\n"

    def _plain(self) -> str:
        lines = [
            f'  File "{file}", line {line}, in {function}\n' + (f"    {source}\n" if source else "")
            for file, line, function, source in self.frames()
        ]
        head = "Traceback (most recent call last):\n" if lines else ""
        last = shown(self.error)
        if len(last) > _MAX_LAST_LENGTH:
            last = f"{last[: _MAX_LAST_LENGTH // 2]}[...]{last[-_MAX_LAST_LENGTH // 2 :]}"
        return f"{head}{''.join(lines)}{last}\n"


def _limited(limit: int) -> str:
    return f"the pool's :memory_limit, RLIMIT_AS, is {limit:,} bytes"


def _formatted(error: BaseException, start: Optional[TracebackType]) -> str:
    return "".join(traceback.format_exception(type(error), error, start))


def _notes(error: BaseException) -> list[Any]:
    notes: Any = getattr(error, "__notes__", None)
    return notes if issubclass(type(notes), list) else []


def _is_few(error: BaseException) -> bool:
    """Whether few exceptions are chained to it and grouped in it: Python formats all of them."""
    count = 0
    chained: set[int] = set()
    left: list[Optional[BaseException]] = [error]
    while left:
        one = left.pop()
        if one is None:
            continue
        count += 1
        if count > _MAX_FORMATTED:
            return False
        if id(one) not in chained:
            chained.add(id(one))
            left += [cause_of(one), _context_of(one)]
        if _GROUP is not None and issubclass(type(one), _GROUP):
            # An exception that is in the group twice is formatted twice.
            left += _GROUP.__dict__["exceptions"].__get__(one)
    return True


def _is_ours(step: TracebackType) -> bool:
    name = dict.get(step.tb_frame.f_globals, "__name__")
    return type(name) is str and name.startswith(_CALLERS)


def _steps(step: Optional[TracebackType]) -> Iterator[tuple[FrameType, Optional[int]]]:
    while step is not None:
        yield step.tb_frame, step.tb_lineno
        step = step.tb_next


def _frame(frame: FrameType, line: Optional[int]) -> Frame:
    file = str.__str__(frame.f_code.co_filename)
    line = min(max(line or 0, 0), _MAX_LINE)
    return file, line, str.__str__(frame.f_code.co_name), attempt(lambda: _source(file, line), "")


def _source(file: str, line: int) -> str:
    return linecache.getline(file, line).strip()[:_MAX_SOURCE_LENGTH]
