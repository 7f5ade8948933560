"""How a call can fail, in the terms of the wire."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Optional

from snakepit_bridge._values import qualified_name


class Failure(Exception):
    """The error that a call is answered with."""

    def __init__(self, reason: str, message: str, *, type: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.type = type
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.type and self.message else (
            self.type or self.message
        )

    @classmethod
    def of(cls, error: BaseException, hidden: str) -> Failure:
        """The failure that a command's exception is, without the frames of the file `hidden`."""
        try:
            message = str(error)
        except Exception:
            message = f"<{qualified_name(type(error))}.__str__ failed>"
        return cls(
            "python_error",
            _sendable(message),
            type=qualified_name(type(error)),
            traceback=_sendable(_formatted(error, hidden)),
        )


def _formatted(error: BaseException, hidden: str) -> str:
    frames: Optional[TracebackType] = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == hidden:
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:
        return "".join(traceback.format_tb(frames))


def _sendable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
