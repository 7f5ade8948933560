"""Copies the containers of a value before they are encoded.

Other threads may change a returned value, and so may the encoders of values in it. So the
containers are copied before any Python code runs for their items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from snakepit_bridge._types.invalid import MAX_DEPTH, InvalidValueError

#: How often a container of a user's class is read again if it changes while it is read.
_TRIES = 100
_LEAVES = frozenset({str, int, float, bool, type(None), bytes})


def snapshot(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Returns a copy of the dicts, lists and tuples. Raises a `RecursionError` if too deep."""
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
    """Returns the items of a dict or of another mapping."""
    if isinstance(mapping, dict) and not dict.__len__(mapping):
        # Python's json does not call `items` of a dict that is empty itself.
        return []
    return read_stable(lambda: list(mapping.items()))


def read_stable(read: Callable[[], list[Any]]) -> list[Any]:
    """Returns the result of `read`, which is repeated if the container changes meanwhile.

    Reading a dict, a set or a deque is never interrupted and needs no second try.
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
