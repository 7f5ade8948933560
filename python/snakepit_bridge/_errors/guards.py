"""Blocks that no exception leaves, or that one leaves as the error of a call."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Optional

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._types.invalid import InvalidValueError


class ReportTo:
    """A block that no exception leaves: `report` is called with the one that is raised in it.

    It is for a user's code that runs where SystemExit would end the calls of others, too.
    """

    __slots__ = ("_report",)

    def __init__(self, report: Callable[[BaseException], object]) -> None:
        self._report = report

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        _kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> bool:
        if error is not None:
            self._report(error)
        return True


class _Invalid:
    """A block in which a value that cannot travel fails the call, for a reason."""

    __slots__ = ("_reason",)

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        _kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        if isinstance(error, InvalidValueError):
            raise CallError(self._reason, str(error)) from None


#: Around decoding the arguments of a call.
invalid_args = _Invalid("invalid_args")
#: Around encoding its result.
invalid_result = _Invalid("invalid_result")
