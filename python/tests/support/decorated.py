"""Commands whose decorators hide their kind."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from typing import Any

from snakepit_bridge import BuiltinAdapter, command


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without `functools.wraps`, as many people write them."""

    def wrapper(self: Any, **arguments: Any) -> Any:
        return function(self, **arguments)

    return wrapper


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(self: Any, **arguments: Any) -> Any:
        return function(self, **arguments)

    return wrapper


def lazy(function: Callable[..., Any]) -> Callable[..., Any]:
    """An `async` command that awaits nothing."""

    async def wrapper(self: Any, **arguments: Any) -> Any:
        return function(self, **arguments)

    return wrapper


class Adder:
    def __init__(self, more: int) -> None:
        self.more = more

    async def __call__(self, number: int) -> int:
        return number + self.more


class Later:
    def __await__(self) -> Generator[Any, None, str]:
        yield from asyncio.sleep(0).__await__()
        return "later"


def plus(number: int, more: int) -> int:
    return number + more


class Decorated(BuiltinAdapter):
    @command
    @plain
    async def plain_async(self, number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    @wrapping
    @command
    async def wrapped_async(self, number: int) -> int:
        await asyncio.sleep(0)
        return number + 1

    @command
    @lazy
    async def lazy_async(self, number: int) -> int:
        return number + 1

    @command
    @plain
    async def plain_failing(self, number: int) -> int:
        raise LookupError(number)

    @command
    @plain
    def plain_stream(self, number: int) -> Generator[int, None, int]:
        yield number
        return number + 1

    @command
    @wrapping
    async def wrapped_async_stream(self, number: int) -> AsyncGenerator[int, None]:
        yield number
        yield number + 1

    @command
    @lazy
    async def lazy_async_stream(self, number: int) -> AsyncGenerator[int, None]:
        yield number
        yield number + 1

    @command
    @lazy
    def lazy_stream(self, number: int) -> Generator[int, None, int]:
        yield number
        return number + 1

    @command
    @lazy
    def lazy_empty_stream(self) -> Generator[int, None, None]:
        yield from ()

    @command
    @lazy
    def lazy_iterator(self, number: int) -> Iterator[int]:
        return map(int, [number, number + 1])

    @command
    def iterator(self, number: int) -> Iterator[int]:
        return map(int, [number, number + 1])

    @command
    def in_a_thread(self, number: int) -> Coroutine[Any, Any, int]:
        return asyncio.to_thread(plus, number, 1)

    @command
    def own_awaitable(self) -> Later:
        return Later()

    @command
    def foreign_future(self) -> Any:
        return asyncio.new_event_loop().create_future()

    @command
    def nested(self) -> Any:
        async def inner() -> int:
            return 1

        made = inner()
        self.made = made
        return {"made": made}

    @command
    @staticmethod
    def static(number: int) -> int:
        return number + 1

    @staticmethod
    @command
    def static_above(number: int) -> int:
        return number + 1

    @classmethod
    @command
    def class_above(cls, number: int) -> int:
        return number + len(cls.__name__) - 8

    @functools.lru_cache  # noqa: B019
    @command
    def cached(self, number: int) -> int:
        return number + 1

    partial = command(functools.partial(plus, more=1))
    added = command(Adder(1))


class WithoutSelf(BuiltinAdapter):
    @command
    def ok() -> int:  # type: ignore[misc]
        return 1


class Hidden(BuiltinAdapter):
    @plain
    @command
    def ok(self) -> int:
        return 1


class Cached(BuiltinAdapter):
    @functools.cached_property
    @command
    def ok(self) -> int:
        return 1
