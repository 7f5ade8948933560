"""Input streams: arguments whose items arrive while the command runs."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Optional, Protocol, TypeVar

from snakepit_bridge._errors.exits import check_process, is_fork
from snakepit_bridge._errors.two_way import CallCancelledError
from snakepit_bridge._two_way.event_loops import end_task, resume, running_loop

_T = TypeVar("_T")

_NONE = object()

#: Checks and converts items: of an input's name, the number of the first item, and the items.
Prepare = Callable[[str, int, list[Any]], Iterator[Any]]


class Source(Protocol):
    """Where the items of an input come from. The same thread calls all methods."""

    def take(self) -> list[Any]:
        """Waits for items; returns those that have arrived, some of them at most; none at the end.

        What is returned counts as read when it is called again. It may raise an `InputError`, or a
        `CallCancelledError`.
        """

    def poll(self) -> Optional[list[Any]]:
        """As `take`, but returns None instead of waiting."""

    def on_ready(self, done: Callable[[], object], /) -> None:
        """Calls `done` once `poll` returns something, from any thread."""

    def check(self) -> None:
        """Raises a `CallCancelledError` if the call is cancelled."""

    def stop(self) -> None:
        """No further items are taken."""


class Input(Iterator[_T], AsyncIterator[_T]):
    """An argument whose items the caller sends while the command runs.

        @command
        def train(self, rows: Input[dict]) -> dict:
            for row in rows:
                ...

    It is an iterator, in an `async` command an async iterator. The items are checked, and
    converted, as arguments are. The caller is asked for items only as they are read. It ends with
    the command, or at `close()`; a `with` block closes it. If what produces the items fails, an
    `InputError` is raised. Only one thread or task may read it at a time.
    """

    def __init__(self, name: str, source: Source) -> None:
        self._name = name
        self._source = source
        self._check = source.check
        self._is_here = isinstance(source, ListSource)
        self._items: Iterator[Any] = iter(())
        #: How many items the earlier lists had.
        self._before = 0
        self._size = 0
        self._prepare: Optional[Prepare] = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<input stream {self._name!r}>"

    def __iter__(self) -> Input[_T]:
        return self

    def __next__(self) -> _T:
        item: Any = next(self._items, _NONE)
        if item is _NONE:
            if self._ended:
                raise StopIteration
            if running_loop() is not None:
                raise RuntimeError(
                    f"{self._name} would block the event loop: read it with `async for`"
                )
            self._check_process()
            self._add(self._source.take())
            return self.__next__()
        # The items that were taken together may last long.
        self._check()
        return item  # type: ignore[no-any-return]

    def __aiter__(self) -> Input[_T]:
        return self

    async def __anext__(self) -> _T:
        try:
            while True:
                item: Any = next(self._items, _NONE)
                if item is not _NONE:
                    self._check()
                    return item  # type: ignore[no-any-return]
                if self._ended:
                    raise StopAsyncIteration
                self._check_process()
                items = self._source.poll()
                if items is None:
                    await self._wait()
                else:
                    self._add(items)
        except CallCancelledError:
            await end_task()

    def close(self) -> None:
        """Reads no further items: the caller's enumerable is halted."""
        if not self._ended:
            self._ended = True
            if not is_fork():
                self._source.stop()
        self._items = iter(())

    def __enter__(self) -> Input[_T]:
        return self

    def __exit__(
        self,
        _kind: Optional[type[BaseException]],
        _error: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def _check_process(self) -> None:
        if not self._is_here:
            check_process(f"the input stream {self._name!r}")

    async def _wait(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        self._source.on_ready(functools.partial(resume, loop, ready))
        await ready

    def _add(self, items: list[Any]) -> None:
        self._before += self._size
        self._size = len(items)
        self._ended = not items
        prepare = self._prepare
        self._items = iter(items) if prepare is None else prepare(self._name, self._before, items)

    def prepared(self, prepare: Prepare) -> Input[_T]:
        """Has the items prepared; returns itself."""
        self._prepare = prepare
        return self


class ListSource:
    """The items of a list."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def take(self) -> list[Any]:
        items, self._items = self._items, []
        return items

    def poll(self) -> list[Any]:
        return self.take()

    def on_ready(self, done: Callable[[], object], /) -> None:
        done()

    def check(self) -> None:
        """The items belong to no call."""

    def stop(self) -> None:
        self._items = []
