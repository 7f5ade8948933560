"""The error of a value that cannot be sent or decoded."""

from __future__ import annotations

MAX_DEPTH = 128

_MAX_PATH_LENGTH = 60


class InvalidValueError(ValueError):
    """A value that cannot be sent or decoded; the message says where it is and what it is."""


def too_deep(path: str) -> InvalidValueError:
    path = path if len(path) < _MAX_PATH_LENGTH else f"{path[:_MAX_PATH_LENGTH]}..."
    return InvalidValueError(f"{path} is nested deeper than {MAX_DEPTH} levels")


def path_to(path: str, *names: str) -> str:
    for name in names:
        path += f".{name}" if name.isidentifier() else f"[{name!r}]"
    return path
