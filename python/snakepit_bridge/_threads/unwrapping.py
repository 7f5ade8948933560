"""Unwraps what a command has returned, for a thread: awaits it, or iterates over it."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Optional

from snakepit_bridge._threads.results import awaited, generator_of, is_awaitable, is_result

if TYPE_CHECKING:
    from snakepit_bridge._threads.async_for_threads import Cancellable


def wait_for(value: object, call: Cancellable) -> object:
    """Returns the value, awaited if necessary."""
    if not is_awaitable(value):
        return value
    from snakepit_bridge._threads.async_for_threads import run_coroutine

    return run_coroutine(call, lambda: awaited(value))


def unwrap(
    value: object, call: Cancellable, name: str, *, stream: bool
) -> tuple[object, Optional[Generator[object, None, object]]]:
    """Returns the value, awaited if necessary, or a generator of the stream's chunks."""
    if is_result(value):
        return value, None
    value = wait_for(value, call)
    generator: Any = generator_of(value, name, stream=stream)
    if generator is None:
        return value, None
    if inspect.isasyncgen(generator):
        from snakepit_bridge._threads.async_for_threads import run_generator

        return None, run_generator(call, lambda: generator)
    return None, generator
