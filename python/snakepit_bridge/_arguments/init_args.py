"""The keyword arguments of a class's `__init__`, which the parent sends first.

Their values may be secrets: no message contains one.
"""

from __future__ import annotations

from typing import Any, Optional

from snakepit_bridge._arguments.annotations import signature_of
from snakepit_bridge._arguments.parameters import Parameters
from snakepit_bridge._errors.call_error import ArgumentsError
from snakepit_bridge._values.extended_reader import decode_extended


class InitError(Exception):
    """Says which arguments are wrong, and what `__init__` takes."""


def keywords(cls: type, message: Optional[bytes]) -> dict[str, Any]:
    """Returns the arguments in `message`, checked and built like those of a command.

    Without a message there are none. Raises an `InitError`.
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
        signature = signature_of(cls)
    except (ValueError, TypeError):
        # For example a class written in C, which checks its arguments itself.
        return {}
    try:
        signature.bind()
    except TypeError as error:
        raise InitError(f"{error}: the class is {cls.__name__}{signature}") from None
    return {}
