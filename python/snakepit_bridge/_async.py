"""`async` commands: they run on one event loop, in a thread of its own, while their call waits."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

from snakepit_bridge._call import Call
from snakepit_bridge._serving import leave_fork, run_on

#: How many chunks an async generator may be ahead of the network.
CHUNKS_AHEAD = 32

_END = object()


_making = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    # Calls that come first together must share one loop: another would not see what is done to its
    # tasks, and a cache alone makes one for each of them.
    with _making:
        return _started_loop()


@functools.cache
def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=_run, args=(loop,), name="snakepit-asyncio", daemon=True).start()
    return loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        run_on(loop)


def run_coroutine(call: Call, keywords: dict[str, Any]) -> object:
    """What the coroutine returns or raises, once it has ended, even if it is cancelled."""
    results: list[object] = []

    async def main() -> None:
        results.append(await call.command.function(**keywords))
        leave_fork()

    done = threading.Event()
    errors = _start(call, main, done.set)
    done.wait()
    if errors:
        raise errors[0]
    return results[0]


def run_generator(call: Call, keywords: dict[str, Any]) -> Generator[object, None, None]:
    """What the async generator yields. One task runs all of it, a bounded number of steps ahead."""
    values: queue.SimpleQueue[object] = queue.SimpleQueue()
    rooms: list[asyncio.Semaphore] = []

    async def main() -> None:
        # Made here because Python 3.9 ties a semaphore to the loop that runs when it is made.
        room = asyncio.Semaphore(CHUNKS_AHEAD)
        rooms.append(room)
        generator: AsyncGenerator[object, None] = call.command.function(**keywords)
        try:
            async for value in generator:
                leave_fork()
                values.put(value)
                await room.acquire()
        finally:
            await generator.aclose()

    errors = _start(call, main, lambda: values.put(_END))
    taken = 0
    value: object = None
    try:
        while (value := values.get()) is not _END:
            taken += 1
            if taken % (CHUNKS_AHEAD // 2) == 0:
                _loop().call_soon_threadsafe(_release, rooms[0])
            yield value
    finally:
        if value is not _END and call.interrupt is not None:
            call.interrupt()
            while values.get() is not _END:
                pass
    if errors:
        raise errors[0]


def _release(room: asyncio.Semaphore) -> None:
    for _ in range(CHUNKS_AHEAD // 2):
        room.release()


def _start(
    call: Call, main: Callable[[], Awaitable[None]], done: Callable[[], object]
) -> list[BaseException]:
    """Runs `main` in a task that the call's cancellation cancels; collects what it raised."""
    errors: list[BaseException] = []

    async def guarded() -> None:
        # Nothing may leave the task: SystemExit would end the loop for every other call.
        try:
            await main()
        except BaseException as error:
            leave_fork(error)
            errors.append(error)

    def start() -> None:
        running = guarded()
        try:
            task = loop.create_task(running)
        except BaseException as error:
            # A task factory is the user's.
            running.close()
            errors.append(error)
            done()
            return
        task.add_done_callback(finish)
        call.interrupt = functools.partial(loop.call_soon_threadsafe, task.cancel)
        if call.context.cancelled:
            task.cancel()

    def finish(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            errors.append(asyncio.CancelledError())
        done()

    loop = _loop()
    loop.call_soon_threadsafe(start)
    return errors
