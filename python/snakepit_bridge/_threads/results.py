"""What a command has returned: its result, or an awaitable or a generator that gives it.

A plain decorator hides that a method is `async` or a generator. What it returns tells.
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
#: How often an awaitable may give another one.
_MAX_AWAITED = 8


def is_result(value: object) -> bool:
    """Whether the value itself is sent, whatever else it can do."""
    return type(value) in _RESULTS or is_encoded(type(value))


def is_awaitable(value: object) -> bool:
    """Whether the value is to be awaited."""
    return not is_result(value) and inspect.isawaitable(value)


def generator_of(value: Any, command: str, *, stream: bool) -> Optional[AnyGenerator]:
    """The generator that the value is, or None; raises a `CallError` in a unary call."""
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
    """What an awaitable gives, and what that gives if it is one, too."""
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
    """Sends what an async generator yields; `send` returns what to await before the next step."""
    try:
        async for value in generator:
            exit_fork()
            room = send(value)
            if room is not None:
                await room
    finally:
        await generator.aclose()
