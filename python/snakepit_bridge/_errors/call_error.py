"""The errors with which a call is answered, as the wire represents them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Optional

from snakepit_bridge._errors.command_error import CommandError
from snakepit_bridge._errors.raised import Frame, Raised, cause_of, shown
from snakepit_bridge._types.invalid import InvalidValueError, path_to
from snakepit_bridge._types.names import attempt, qualified_name, text_of

_log = logging.getLogger("snakepit_bridge")

# An error must fit in a message, whatever went wrong.
_MAX_LENGTH = 16_000
_MAX_NOTES = 20
_MAX_CAUSES = 8


# The size of a message without its error.
_ENVELOPE = 1024

_max_message_size = 16 * 1024 * 1024


def limit_errors(max_message_size: int) -> None:
    """Limits the descriptions of exceptions: a peer accepts no larger message."""
    global _max_message_size  # noqa: PLW0603 (a worker serves one pool)
    _max_message_size = max_message_size


class Fault(NamedTuple):
    """What is wrong with an argument, and where in it."""

    path: tuple[object, ...]
    message: str

    @property
    def place(self) -> str:
        """The path as text: `user.tags[2]`."""
        text = str(self.path[0])
        for key in self.path[1:]:
            text = f"{text}[{key}]" if isinstance(key, int) else path_to(text, str(key))
        return text


class CallError(Exception):
    """The error with which a call is answered."""

    #: Where it was raised, the innermost last.
    frames: list[Frame]
    #: The texts added by `add_note`.
    notes: list[str]
    #: The exception from which it was raised.
    cause: Optional[CallError]
    #: The code of a `CommandError`, and its data as extended JSON, empty if there are none. An
    #: `ArgumentsError` has its faults as data.
    code: str
    data: bytes
    #: Whether the task of an `async` command was cancelled.
    closed: bool = False

    def __init__(
        self, reason: str, message: str, *, type_name: str = "", traceback: str = ""
    ) -> None:
        message = sendable(message)
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.type = sendable(type_name)
        self.traceback = sendable(traceback)
        self.frames = []
        self.notes = []
        self.cause = None
        self.code = ""
        self.data = b""

    def __str__(self) -> str:
        name = self.code or self.type
        if not name:
            return self.message
        return f"{name}: {self.message}" if self.message not in ("", name) else name

    @classmethod
    def too_large(cls, size: int, limit: int) -> CallError:
        return cls(
            "message_too_large",
            f"the result has {size} bytes, over the limit of {limit}: send less at a time, or "
            "raise max_message_size",
        )

    @classmethod
    def of_stream(cls, command: str) -> CallError:
        """The error of a unary call of a command that yields."""
        return cls(
            "invalid_args",
            f"{command!r} yields a stream of results: call it with execute_stream, not execute",
        )

    def detail(self) -> dict[str, Any]:
        """Returns the fields of `ErrorDetail`; the data stay encoded."""
        names = ("file", "line", "function", "source")
        return {
            "reason": self.reason,
            "type": self.type,
            "message": self.message,
            "traceback": self.traceback,
            "frames": [dict(zip(names, frame)) for frame in self.frames],
            "notes": self.notes,
            "cause": None if self.cause is None else self.cause.detail(),
            "code": self.code,
            "data": self.data,
        }

    @classmethod
    def of(cls, error: BaseException) -> CallError:
        """Returns the error of a command's exception; its traceback begins in the command's code.

        Does not raise, even if the exception's own methods do.
        """
        failure = cls._raised(Raised(error), _MAX_CAUSES)
        failure.__cause__ = error
        if issubclass(type(error), CommandError):
            failure.reason = "command_error"
            given: Any = error
            failure.code = sendable(attempt(lambda: text_of(given.code), ""))
            failure.message = sendable(attempt(lambda: text_of(given.message), failure.message))
            failure.data = _encoded(lambda: given.data)
        failure.fit(_max_message_size)
        return failure

    def fit(self, limit: int) -> None:
        """Removes parts until the error fits in a message, the least important first."""
        room = limit - _ENVELOPE
        if self._size() > room and self.data:
            size = len(self.data)
            self.data = _encoded(
                lambda: f"the data of the error has {size} bytes, over the limit of {limit}"
            )
        if self._size() > room:
            self.cause = None
            self.notes = []
        if self._size() > room:
            self.frames = self.frames[-1:]
        if self._size() > room:
            self.message = self.message[: room // 8]
            self.code = self.code[: room // 8]
        if self._size() > room:
            self.traceback = self.traceback[-room // 8 :]
            self.frames = []
            self.data = b""

    def _size(self) -> int:
        # The message is in the error's text as well.
        texts = [self.type, self.message, self.type, self.message, self.traceback, self.code]
        texts += [text for frame in self.frames for text in frame if isinstance(text, str)]
        rest = 0 if self.cause is None else self.cause._size()  # noqa: SLF001
        overhead = 16 * (len(self.frames) + len(self.notes) + 1)
        return (
            sum(len(text.encode()) for text in texts + self.notes)
            + len(self.data)
            + overhead
            + rest
        )

    @classmethod
    def internal(cls, error: BaseException, command: str) -> CallError:
        """Returns the error of a call that fails by a fault in Snakepit; logs the exception."""
        attempt(
            lambda: _log.error(
                "Snakepit failed to serve a call of %s: %s", command, Raised(error).text()
            ),
            None,
        )
        return cls(
            "internal_error",
            f"Snakepit failed to serve the call ({shown(error)}): this is a bug in Snakepit; the "
            "log of the worker has the traceback",
        )

    @classmethod
    def _raised(cls, raised: Raised, causes: int) -> CallError:
        failure = cls(
            "python_error",
            raised.message(),
            type_name=qualified_name(type(raised.error)),
            traceback=raised.text() if causes == _MAX_CAUSES else "",
        )
        failure.frames = [
            (sendable(file), line, sendable(function), sendable(source))
            for file, line, function, source in raised.frames()
        ]
        failure.notes = [sendable(note) for note in raised.notes()[:_MAX_NOTES]]
        cause = cause_of(raised.error)
        if cause is not None and causes:
            failure.cause = cls._raised(Raised(cause), causes - 1)
        return failure


class ArgumentsError(CallError):
    """Arguments that a command does not accept, with the fault of each."""

    def __init__(self, message: str, faults: Iterable[Fault]) -> None:
        super().__init__("invalid_args", message)
        self.faults = list(faults)
        self.data = _encoded(
            lambda: [
                {
                    "path": [key if isinstance(key, int) else sendable(str(key)) for key in path],
                    "message": sendable(text),
                }
                for path, text in self.faults
            ]
        )


def _encoded(ask: Callable[[], object]) -> bytes:
    from snakepit_bridge._values.extended_writer import encode_extended

    try:
        data = ask()
        return b"" if data is None else encode_extended(data, "data")
    except BaseException as error:
        why = str(error) if type(error) is InvalidValueError else shown(error)
        return encode_extended(sendable(f"the data of the error cannot be sent: {why}"))


def sendable(text: str) -> str:
    """Returns a text of bounded length that UTF-8 can encode."""
    if len(text) > _MAX_LENGTH:
        text = f"{text[: _MAX_LENGTH // 2]}\n[...]\n{text[-_MAX_LENGTH // 2 :]}"
    return text.encode(errors="backslashreplace").decode()
