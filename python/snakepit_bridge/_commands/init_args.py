"""The keyword arguments of a class's `__init__`, which the parent gives before all else.

Their values may be secrets: no message has one in it.
"""

from __future__ import annotations

import inspect
from typing import Any, Optional

from snakepit_bridge._commands.parameters import Parameters
from snakepit_bridge._errors.call_error import ArgumentsError
from snakepit_bridge._values.extended import decode_extended

_NAMES = ("missing", "unknown")


class InitError(Exception):
    """What is wrong with the arguments, and what `__init__` takes."""


def keywords(cls: type, message: Optional[bytes]) -> dict[str, Any]:
    """What to call the class with: what `message` has, checked and built as a command's arguments.

    None is no message. Raises an `InitError`.
    """
    if message is None:
        return _none(cls)
    given: dict[str, Any] = decode_extended(message)["init"]
    try:
        return Parameters(cls, cls.__name__, what="class", scope=cls).bind(given, None)
    except ArgumentsError as error:
        raise InitError(_without_values(cls, error)) from None
    except TypeError as error:
        raise InitError(str(error)) from None


def _none(cls: type) -> dict[str, Any]:
    try:
        signature = inspect.signature(cls)
    except (ValueError, TypeError, NameError):
        # Of a class of C, for one: it says itself what it wants.
        return {}
    try:
        signature.bind()
    except TypeError as error:
        raise InitError(f"{error}: the class is {cls.__name__}{signature}") from None
    return {}


def _without_values(cls: type, error: ArgumentsError) -> str:
    """As the error, which shows what an argument is where it is of the wrong type."""
    wrong = [fault.place for fault in error.faults if fault.message not in _NAMES]
    first = str(error).partition("\n")[0]
    if not wrong:
        return first
    by_name = [
        f"{what} {', '.join(names)}"
        for what in _NAMES
        if (names := [fault.place for fault in error.faults if fault.message == what])
    ]
    faults = "; ".join([*by_name, f"of the wrong type {', '.join(wrong)}"])
    return f"{faults}: the class is {cls.__name__}{inspect.signature(cls)}"
