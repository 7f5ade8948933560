"""How a call can fail, in the terms of the wire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

from snakepit_bridge._builders import Fault
from snakepit_bridge._invalid import InvalidValueError, qualified_name
from snakepit_bridge._traceback import Frame, Raised

# An error must fit in a message, whatever went wrong.
_LONGEST = 16_000
_MOST_NOTES = 20
_MOST_CAUSES = 8


class CommandError(Exception):
    """An error that callers are to tell from others: by its code, and by data that goes with it.

    raise CommandError("out_of_stock", "only 3 are left", data={"left": 3})

    In Elixir its reason is `:command_error`, its details have `:code` and `:data`. It prints as
    `out_of_stock: only 3 are left`.
    """

    def __init__(self, code: str, message: str = "", *, data: object = None) -> None:
        super().__init__(*((code, message) if message else (code,)))
        self.code = code
        self.message = message or code
        self.data = data

    def __str__(self) -> str:
        return self.code if self.message == self.code else f"{self.code}: {self.message}"


# As users import it: its name is in tracebacks and in errors.
CommandError.__module__ = "snakepit_bridge"


class CallError(Exception):
    """The error that a call is answered with."""

    #: Where it was raised, the innermost last.
    frames: list[Frame]
    #: What `add_note` has added.
    notes: list[str]
    #: What it was raised from.
    cause: Optional[CallError]
    #: Of a `CommandError`; the data as extended JSON, empty if there is none. Of an
    #: `ArgumentsError` what is wrong with which of them.
    code: str
    data: bytes
    #: Whether an `async` command's task ended by its cancellation.
    closed: bool = False

    def __init__(
        self, reason: str, message: str, *, type_name: str = "", traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.type = type_name
        self.traceback = traceback
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

    def detail(self) -> dict[str, Any]:
        """Everything about it, as values; the data stays encoded."""
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
        """The failure that a command's exception is, with the traceback from its own code on."""
        failure = cls._raised(Raised(error), _MOST_CAUSES)
        if isinstance(error, CommandError):
            failure.reason = "command_error"
            failure.code = _sendable(str(error.code))
            failure.message = _sendable(str(error.message))
            failure.data = b"" if error.data is None else _encoded(error.data)
        return failure

    @classmethod
    def _raised(cls, raised: Raised, causes: int) -> CallError:
        failure = cls(
            "python_error",
            _sendable(raised.message()),
            type_name=qualified_name(type(raised.error)),
            traceback=_sendable(raised.text()),
        )
        failure.frames = [
            (_sendable(file), line, _sendable(function), _sendable(source))
            for file, line, function, source in raised.frames()
        ]
        failure.notes = [_sendable(note) for note in raised.notes()[:_MOST_NOTES]]
        cause = raised.error.__cause__
        if cause is not None and causes:
            failure.cause = cls._raised(Raised(cause), causes - 1)
            failure.cause.traceback = ""
        return failure


class ArgumentsError(CallError):
    """Arguments that a command does not take, with what is wrong with each."""

    def __init__(self, message: str, faults: Iterable[Fault]) -> None:
        super().__init__("invalid_args", _sendable(message))
        self.faults = list(faults)
        self.data = _encoded(
            [
                {
                    "path": [key if isinstance(key, int) else _sendable(str(key)) for key in path],
                    "message": _sendable(text),
                }
                for path, text in self.faults
            ]
        )


def _encoded(data: object) -> bytes:
    from snakepit_bridge._extended import encode_extended

    try:
        return encode_extended(data, "data")
    except InvalidValueError as error:
        return encode_extended(f"the data of the error cannot be sent: {error}")


def _sendable(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}\n[...]\n{text[-_LONGEST // 2 :]}"
    return text.encode(errors="backslashreplace").decode()
