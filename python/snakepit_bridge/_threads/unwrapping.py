"""What a command returned that is not its result yet: a coroutine, a generator.

A plain decorator hides from us that a method is `async` or a generator. What it returns tells.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any, Optional, Protocol

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._types.encoders import is_encoded

_RESULTS = frozenset({dict, list, tuple, str, int, float, bool, bytes, type(None)})
#: How often an awaitable may give another one.
MOST_AWAITED = 8


class Cancellable(Protocol):
    """A call: it has what is to be done called once it is cancelled."""

    def on_cancel(self, stop: Callable[[], object], /) -> None: ...


def unwrap(
    given: object, call: Cancellable, name: str, *, stream: bool
) -> tuple[object, Optional[Generator[object, None, object]]]:
    """The result that a value is, once it is awaited, or the generator of a stream's chunks."""
    value: Any = given
    for _ in range(MOST_AWAITED):
        if type(value) in _RESULTS or is_encoded(type(value)):
            return value, None
        if not inspect.isawaitable(value):
            break
        from snakepit_bridge._threads.async_for_threads import run_awaitable

        value = run_awaitable(call, value)
    if inspect.isasyncgen(value):
        if not stream:
            raise is_stream(name)
        return None, _of_async(call, value)
    if inspect.isgenerator(value):
        if not stream:
            value.close()
            raise is_stream(name)
        generator: Any = value
        return None, generator
    if stream and isinstance(value, Iterator):
        return None, (item for item in value)
    return value, None


def is_stream(name: str) -> CallError:
    """Why a unary call of a command that yields is refused."""
    return CallError(
        "invalid_args",
        f"{name!r} yields a stream of results: call it with execute_stream, not execute",
    )


def _of_async(
    call: Cancellable, generator: AsyncGenerator[object, Any]
) -> Generator[object, None, None]:
    from snakepit_bridge._threads.async_for_threads import run_generator

    return run_generator(call, lambda: generator)
