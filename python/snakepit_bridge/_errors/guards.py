"""Context managers that catch exceptions, or convert them to the error of a call."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Optional

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._types.invalid import InvalidValueError


class ReportTo:
    """Calls `report` with an exception that is raised in the block, and does not propagate it.

    For a user's code in places where SystemExit would end other calls, too.
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
    """Converts an `InvalidValueError` to a `CallError` with this reason."""

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


#: For decoding the arguments of a call.
invalid_args = _Invalid("invalid_args")
#: For encoding its result.
invalid_result = _Invalid("invalid_result")
