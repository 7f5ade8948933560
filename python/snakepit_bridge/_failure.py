"""How a call can fail, in the terms of the wire."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Optional

from snakepit_bridge._invalid import qualified_name

# An error must fit in a message, whatever went wrong.
_LONGEST = 16_000

# The modules whose frames stand above a command's own.
_CALLERS = ("snakepit_bridge._execution", "snakepit_bridge._async")


class CallError(Exception):
    """The error that a call is answered with."""

    def __init__(
        self, reason: str, message: str, *, type_name: str = "", traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.type = type_name
        self.traceback = traceback

    def __str__(self) -> str:
        return (
            f"{self.type}: {self.message}"
            if self.type and self.message
            else (self.type or self.message)
        )

    @classmethod
    def too_large(cls, size: int, limit: int) -> CallError:
        return cls(
            "message_too_large",
            f"the result has {size} bytes, over the limit of {limit}: send less at a time, or "
            "raise max_message_size",
        )

    @classmethod
    def of(cls, error: BaseException) -> CallError:
        """The failure that a command's exception is, with the traceback from its own code on."""
        try:
            message = str(error)
        except Exception:
            message = f"<{qualified_name(type(error))}.__str__ failed>"
        return cls(
            "python_error",
            _sendable(message),
            type_name=qualified_name(type(error)),
            traceback=_sendable(_formatted(error)),
        )


def _formatted(error: BaseException) -> str:
    frames: Optional[TracebackType] = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") in _CALLERS:
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:
        return "".join(traceback.format_tb(frames))


def _sendable(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}\n[...]\n{text[-_LONGEST // 2 :]}"
    return text.encode(errors="backslashreplace").decode()
