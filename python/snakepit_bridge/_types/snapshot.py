"""A value's containers as they are at one moment, of which nobody else has a reference.

A command may return what other threads go on changing, and what the encoders of its own values
change. So the containers are copied before any Python code runs for what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from snakepit_bridge._types.invalid import MAX_DEPTH, InvalidValueError

#: How often a container of the user's own making is read again that changes while it is read.
_TRIES = 100
_LEAVES = frozenset({str, int, float, bool, type(None), bytes})


def snapshot(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value with its dicts, lists and tuples copied. A `RecursionError` if it is too deep."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if isinstance(value, dict):
        if depth < 0:
            raise RecursionError
        return {key: snapshot(item, depth - 1) for key, item in items(value)}
    if isinstance(value, (list, tuple)):
        if depth < 0:
            raise RecursionError
        copied = list(value)
        if _LEAVES.issuperset(map(type, copied)):
            return copied
        return [snapshot(item, depth - 1) for item in copied]
    return value


def items(mapping: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """The items of a dict or of another mapping."""
    if isinstance(mapping, dict) and not dict.__len__(mapping):
        # Python's json asks no dict for its items that holds none itself.
        return []
    return read_stable(lambda: list(mapping.items()))


def read_stable(read: Callable[[], list[Any]]) -> list[Any]:
    """What `read` makes of a container in one go, read again where that has changed meanwhile.

    That of a dict, a set or a deque is never interrupted: it needs no second try.
    """
    for _ in range(_TRIES):
        try:
            return read()
        except (RuntimeError, KeyError) as error:
            changed = error
            if isinstance(error, RecursionError):
                raise
    raise InvalidValueError(
        f"changes while it is read ({changed}): return a copy made under the lock that guards its "
        "changes"
    ) from changed
