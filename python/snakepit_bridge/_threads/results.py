"""Classifies what a command has returned: its result, an awaitable, or a generator.

A plain decorator hides that a method is `async` or a generator; its return value does not.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from typing import Any, Optional, Union

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._errors.exits import exit_fork
from snakepit_bridge._types.encoders import is_encoded

AnyGenerator = Union[Generator[object, Any, object], AsyncGenerator[object, Any]]

_RESULTS = frozenset({dict, list, tuple, str, int, float, bool, bytes, type(None)})
#: How often the result of an awaitable may be an awaitable again.
_MAX_AWAITED = 8


def is_result(value: object) -> bool:
    """Whether the value itself is sent, even if it could be awaited or iterated over."""
    return type(value) in _RESULTS or is_encoded(type(value))


def is_awaitable(value: object) -> bool:
    """Whether the value has to be awaited."""
    return not is_result(value) and inspect.isawaitable(value)


def generator_of(value: Any, command: str, *, stream: bool) -> Optional[AnyGenerator]:
    """Returns the value as a generator, or None; raises a `CallError` if the call is unary."""
    if is_result(value):
        return None
    is_generator = inspect.isgenerator(value)
    if is_generator or inspect.isasyncgen(value):
        if not stream:
            if is_generator:
                value.close()
            raise CallError.of_stream(command)
        generator: AnyGenerator = value
        return generator
    if stream and isinstance(value, Iterator):
        return (item for item in value)
    return None


async def awaited(value: Any) -> object:
    """Awaits a value until the result is no longer an awaitable."""
    import asyncio

    for _ in range(_MAX_AWAITED):
        if not is_awaitable(value):
            break
        if isinstance(value, asyncio.Future) and value.get_loop() is not asyncio.get_running_loop():
            value = _of_another_loop(value)
        else:
            value = await value
            exit_fork()
    return value


def _of_another_loop(future: Any) -> object:
    if future.done():
        result: object = future.result()
        return result
    raise TypeError(
        f"the command returned a {type(future).__name__} of an event loop that does not run "
        "here: define it with `async def`, and await it there"
    )


async def send_all(
    generator: AsyncGenerator[object, Any], send: Callable[[object], Optional[Awaitable[object]]]
) -> None:
    """Sends the values of an async generator; `send` returns what to await before the next step."""
    try:
        async for value in generator:
            exit_fork()
            room = send(value)
            if room is not None:
                await room
    finally:
        await generator.aclose()
