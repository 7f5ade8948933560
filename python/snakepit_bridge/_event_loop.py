"""The event loop that runs `async` commands for the server in Rust, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

from snakepit_bridge import _async, _call_context
from snakepit_bridge._context import Context, running
from snakepit_bridge._native import AsyncCall, Server
from snakepit_bridge._serving import leave_fork, run_on
from snakepit_bridge._unwrapping import MOST_AWAITED, is_stream


class EventLoop(threading.Thread):
    """Started when it is made; ends when the server is closed."""

    def __init__(self, server: Server) -> None:
        super().__init__(name="snakepit-asyncio", daemon=True)
        #: The variables that tasks start with: those of the thread that makes the loop.
        self._context = _call_context.new()
        self._server = server
        self._loop = _new_loop()
        _async.share(self._loop)
        self._stopped = False
        #: The loop itself holds tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()
        self.start()

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self._server.loop_fd(), self._take)
        while not self._stopped:
            run_on(self._loop)
        self._loop.close()

    def join(self, timeout: Any = None) -> None:
        self._stopped = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        super().join(timeout)

    def _take(self) -> None:
        calls, resumes = self._server.take_for_loop()
        for resume in resumes:
            resume()
        for call in calls:
            try:
                self._start(call)
            except BaseException as error:
                call.fail(error)

    def _start(self, call: AsyncCall) -> None:
        running = _run(call)
        try:
            task = self._context.run(self._loop.create_task, running)
        except BaseException:
            # A task factory is the user's.
            running.close()
            raise
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._ended, call))
        call.on_cancel(functools.partial(self._loop.call_soon_threadsafe, task.cancel))

    def _ended(self, call: AsyncCall, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            # It was cancelled before its first step.
            call.fail(asyncio.CancelledError())


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def _run(call: AsyncCall) -> None:
    _call_context.set_decimal()
    running.set(Context(request_id=call.request_id))
    # Nothing may leave the task: SystemExit would end the loop for every other call.
    try:
        keywords = call.keywords()
        if call.streams:
            await _stream(call, call.function(**keywords))
            leave_fork()
            call.finish(None)
        else:
            await _finish(call, await call.function(**keywords))
    except BaseException as error:
        call.fail(error)


async def _finish(call: AsyncCall, value: Any) -> None:
    """What a coroutine returned may have to be awaited, or iterated over, in turn."""
    leave_fork()
    for _ in range(MOST_AWAITED):
        if not inspect.isawaitable(value):
            break
        value = await value
        leave_fork()
    if inspect.isasyncgen(value) or inspect.isgenerator(value):
        if not call.is_stream:
            raise is_stream(call.name)
        generator: Any = value
        await _stream(call, generator if inspect.isasyncgen(value) else _iterate(generator))
        value = None
    call.finish(value)


async def _iterate(generator: Generator[object, None, object]) -> AsyncGenerator[object, None]:
    with contextlib.closing(generator):
        for value in generator:
            yield value


async def _stream(call: AsyncCall, generator: AsyncGenerator[object, None]) -> None:
    try:
        async for value in generator:
            leave_fork()
            if call.chunk(value):
                await _room(call)
    finally:
        await generator.aclose()


async def _room(call: AsyncCall) -> None:
    room = asyncio.get_running_loop().create_future()
    call.on_room(functools.partial(_resume, room))
    await room


def _resume(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)
