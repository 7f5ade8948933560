"""The event loop of a worker, in a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from snakepit_bridge._errors.exits import exit_fork
from snakepit_bridge._errors.guards import ReportTo
from snakepit_bridge._types.names import attempt

_log = logging.getLogger("snakepit_bridge")

_T = TypeVar("_T")

_making = threading.Lock()


class LoopThread(threading.Thread):
    """Runs an event loop from its creation until `join`."""

    def __init__(self) -> None:
        super().__init__(name="snakepit-asyncio", daemon=True)
        self.loop = _new_loop()
        self._stopped = False
        self.start()

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopped:
            _run(self.loop)
        self._end_tasks()
        self.loop.close()

    def join(self, timeout: Any = None) -> None:
        """Stops the loop and cancels the remaining tasks, as `asyncio.run` does."""
        self._stopped = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        super().join(timeout)

    def submit(self, coroutine: Callable[[], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Runs a coroutine on the loop; it must not raise SystemExit or KeyboardInterrupt."""
        return asyncio.run_coroutine_threadsafe(coroutine(), self.loop)

    def complete(self, coroutine: Callable[[], Awaitable[_T]]) -> _T:
        """Runs a coroutine on the loop and waits; returns its result or raises its exception."""
        results: list[_T] = []
        errors: list[BaseException] = []

        async def main() -> None:
            with ReportTo(errors.append):
                results.append(await coroutine())

        self.submit(main).result()
        if errors:
            raise errors[0]
        return results[0]

    def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()

        async def end() -> None:
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.loop.shutdown_asyncgens()

        ended = self.loop.create_task(end())
        while not ended.done():
            ended.add_done_callback(lambda _: self.loop.stop())
            _run(self.loop)


def shared() -> LoopThread:
    """Returns the worker's loop thread; the first call starts it."""
    # The cache alone would let concurrent first calls start one thread each.
    with _making:
        return _started()


def end() -> None:
    """Ends the shared loop thread, if there is one."""
    with _making:
        thread = _started() if _started.cache_info().currsize else None
    if thread is not None:
        thread.join()


@functools.cache
def _started() -> LoopThread:
    return LoopThread()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Runs an event loop until it is stopped, or until a callback or a user's task exits.

    asyncio propagates SystemExit and KeyboardInterrupt, which would end every other call, too.
    """
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as error:
        exit_fork(error)
        named = attempt(functools.partial(repr, error), type(error).__name__)
        _log.exception("%s was raised in the event loop, outside of any call", named)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
