"""Runs `async` commands for a thread that serves their call and waits for the event loop.

The grpcio and stdio servers have such threads, and the native server has them for functions that
return a coroutine. `async_for_native` runs what the native server knows to be `async`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Optional, Protocol

from snakepit_bridge._errors.exits import exit_fork
from snakepit_bridge._errors.guards import ReportTo
from snakepit_bridge._threads.loop_thread import shared
from snakepit_bridge._threads.results import send_all

#: The number of chunks that an async generator may be ahead of the network.
CHUNKS_AHEAD = 32

_END = object()


class Cancellable(Protocol):
    """A call that calls `stop` when it is cancelled."""

    def on_cancel(self, stop: Callable[[], object], /) -> None: ...


def run_coroutine(call: Cancellable, make: Callable[[], Awaitable[object]]) -> object:
    """Waits for the awaitable that `make` returns; returns its result or raises its exception."""
    results: list[object] = []

    async def main() -> None:
        results.append(await make())
        exit_fork()

    done = threading.Event()
    task = _Task(call, main, done.set)
    done.wait()
    task.check()
    return results[0]


def run_generator(
    call: Cancellable, make: Callable[[], AsyncGenerator[object, Any]]
) -> Generator[object, None, None]:
    """Yields the values of the async generator. One task runs all of it, a bounded number ahead."""
    values: queue.SimpleQueue[object] = queue.SimpleQueue()
    rooms: list[asyncio.Semaphore] = []

    async def main() -> None:
        # Created here because Python 3.9 binds a semaphore to the loop that runs at its creation.
        room = asyncio.Semaphore(CHUNKS_AHEAD)
        rooms.append(room)

        def send(value: object) -> Awaitable[object]:
            values.put(value)
            return room.acquire()

        await send_all(make(), send)

    task = _Task(call, main, lambda: values.put(_END))
    taken = 0
    value: object = None
    try:
        while (value := values.get()) is not _END:
            taken += 1
            if taken % (CHUNKS_AHEAD // 2) == 0:
                shared().loop.call_soon_threadsafe(_release, rooms[0])
            yield value
    finally:
        if value is not _END:
            task.cancel()
            while values.get() is not _END:
                pass
    task.check()


def _release(room: asyncio.Semaphore) -> None:
    for _ in range(CHUNKS_AHEAD // 2):
        room.release()


class _Task:
    """Runs `main` in a task that the call's cancellation cancels; keeps its exception."""

    def __init__(
        self,
        call: Cancellable,
        main: Callable[[], Coroutine[Any, Any, None]],
        done: Callable[[], object],
    ) -> None:
        self._error: Optional[BaseException] = None
        self._main = main
        self._done = done
        self._cancelled = False
        self._task: Optional[asyncio.Task[None]] = None
        self._loop = shared().loop
        # The call will refer to the task: together they would be a cycle, which keeps their RPC.
        self._loop.call_soon_threadsafe(self._start, call)

    def cancel(self) -> None:
        """Cancels the task. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        # A second time would end what the command awaits in order to clean up.
        if self._cancelled:
            return
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def check(self) -> None:
        """Raises the exception with which the task has ended, if it has, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            # Its traceback refers to this frame.
            del error

    def _start(self, call: Cancellable) -> None:
        running = self._run()
        try:
            self._task = self._loop.create_task(running)
        except BaseException as error:
            # The user's code may have set a task factory, which may raise.
            running.close()
            self._error = error
            self._done()
            return
        self._task.add_done_callback(self._finish)
        call.on_cancel(self.cancel)
        if self._cancelled:
            self._task.cancel()

    async def _run(self) -> None:
        with ReportTo(self._failed):
            await self._main()

    def _failed(self, error: BaseException) -> None:
        exit_fork(error)
        self._error = error

    def _finish(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._error = asyncio.CancelledError()
        self._done()
