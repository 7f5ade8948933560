"""The event loop that runs `async` commands for the server in Rust, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any

from snakepit_bridge._commands.context import Context, running
from snakepit_bridge._commands.sessions import Sessions
from snakepit_bridge._native import AsyncCall, Server
from snakepit_bridge._servers.signals import leave_fork
from snakepit_bridge._threads import context_variables
from snakepit_bridge._threads.loop_thread import shared
from snakepit_bridge._threads.unwrapping import MOST_AWAITED, is_stream
from snakepit_bridge._types.encoders import is_encoded


class EventLoop:
    """Starts the server's `async` calls on the worker's event loop."""

    def __init__(self, server: Server, sessions: Sessions) -> None:
        self._server = server
        self._sessions = sessions
        self._loop = shared().loop
        #: The variables that tasks start with.
        self._context = context_variables.new()
        #: The loop itself holds tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.call_soon_threadsafe(self._loop.add_reader, server.loop_fd(), self._take)

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
        running = _run(call, self._sessions)
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


async def _run(call: AsyncCall, sessions: Sessions) -> None:
    context_variables.set_decimal()
    running.set(Context(request_id=call.request_id))
    # Nothing may leave the task: SystemExit would end the loop for every other call.
    try:
        keywords = call.keywords()
        if call.session_id is not None:
            await _settle(sessions, call.session_id)
        if call.streams:
            await _stream(call, call.function(**keywords))
            leave_fork()
            call.finish(None, streamed=True)
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
        returned: object = None
        if inspect.isasyncgen(value):
            await _stream(call, generator)
        else:
            returned = await _iterate(call, generator)
    elif call.is_stream and isinstance(value, Iterator) and not is_encoded(type(value)):
        returned = await _iterate(call, (item for item in value))
    else:
        call.finish(value)
        return
    call.finish(returned, streamed=True)


async def _iterate(call: AsyncCall, generator: Generator[object, Any, object]) -> object:
    """Sends what a plain generator yields, and returns what it returns."""
    with contextlib.closing(generator):
        while True:
            try:
                value = next(generator)
            except StopIteration as end:
                leave_fork()
                returned: object = end.value
                return returned
            leave_fork()
            if call.chunk(value):
                await _room(call)


async def _stream(call: AsyncCall, generator: AsyncGenerator[object, None]) -> None:
    try:
        async for value in generator:
            leave_fork()
            if call.chunk(value):
                await _room(call)
    finally:
        await generator.aclose()


async def _settle(sessions: Sessions, session_id: str) -> None:
    """Waits, as commands in threads do, until no earlier life of its session is to be told of."""
    loop = asyncio.get_running_loop()
    settled = asyncio.Event()
    while sessions.when_settled(
        session_id, functools.partial(loop.call_soon_threadsafe, settled.set)
    ):
        await settled.wait()
        settled.clear()


async def _room(call: AsyncCall) -> None:
    room = asyncio.get_running_loop().create_future()
    call.on_room(functools.partial(_resume, room))
    await room


def _resume(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)
