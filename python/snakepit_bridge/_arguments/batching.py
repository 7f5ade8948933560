"""How the calls of a command gather in batches, and what its function returns for one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Optional

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._types.names import qualified_name

#: The largest number of calls in a batch.
MAX_SIZE = 1024
_WAIT_MS = 5.0
_MAX_WAIT_MS = 60_000.0
_MAX_BYTES = 16 * 1024 * 1024


class Batching(NamedTuple):
    """The limits of a command's batches."""

    size: int
    wait_ms: float
    max_bytes: int


def batching(
    size: Optional[int], wait_ms: Optional[float], max_bytes: Optional[int]
) -> Optional[Batching]:
    """Returns the options of `@command`, checked; None if its calls do not gather."""
    if size is None:
        for name, value in (("wait_ms", wait_ms), ("max_bytes", max_bytes)):
            if value is not None:
                raise TypeError(f"@command({name}=...) needs batch=, the size of a batch")
        return None
    wait_ms = _WAIT_MS if wait_ms is None else wait_ms
    max_bytes = _MAX_BYTES if max_bytes is None else max_bytes
    if not _is_int(size) or not 1 <= size <= MAX_SIZE:
        raise TypeError(f"expected @command(batch=...) from 1 to {MAX_SIZE}, got {size!r}")
    if type(wait_ms) not in (int, float) or not 0 <= wait_ms <= _MAX_WAIT_MS:
        raise TypeError(
            f"expected @command(wait_ms=...) from 0 to {_MAX_WAIT_MS:.0f}, got {wait_ms!r}"
        )
    if not _is_int(max_bytes) or max_bytes < 1:
        raise TypeError(f"expected @command(max_bytes=...) of 1 or more, got {max_bytes!r}")
    return Batching(size, float(wait_ms), max_bytes)


def _is_int(value: object) -> bool:
    return type(value) is int


def check_function(function: Callable[..., Any], name: str) -> None:
    """Raises a `TypeError` if the function cannot take batches."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"@command(batch=...) is on the generator {name}: a stream serves one call; return a "
            "list with one result for each call of the batch, or leave batch= out"
        )


def results_of(value: object, count: int, name: str) -> list[Any]:
    """Returns the results of a batch's calls; raises a `CallError` if there is not one for each."""
    if isinstance(value, (list, tuple)):
        if len(value) == count:
            return list(value)
        got = f"{len(value)} results"
    else:
        got = qualified_name(type(value))
        if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
            got = f"{got}: return list(...) of it"
    raise CallError(
        "invalid_result",
        f"{name} takes batches, and must return a list with one result for each call of the "
        f"batch: expected {count} in a list, got {got}",
    )
