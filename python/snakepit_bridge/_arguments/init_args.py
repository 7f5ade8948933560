"""The keyword arguments of a class's `__init__`, which the parent gives before all else.

Their values may be secrets: no message has one in it.
"""

from __future__ import annotations

import inspect
from typing import Any, Optional

from snakepit_bridge._arguments.parameters import Parameters
from snakepit_bridge._errors.call_error import ArgumentsError
from snakepit_bridge._values.extended_reader import decode_extended


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
        parameters = Parameters(cls, cls.__name__, what="class", scope=cls, shows_values=False)
        return parameters.bind(given, None)
    except (ArgumentsError, TypeError) as error:
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
