"""Runs `async` commands for the native server: the event loop takes calls and answers them itself.

No thread waits for them, unlike in `async_for_threads`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Any, Optional, Union

from snakepit_bridge import _native
from snakepit_bridge._commands import context_variables
from snakepit_bridge._commands.context import Context, running
from snakepit_bridge._commands.sessions import SessionKey, Sessions
from snakepit_bridge._errors.exits import exit_fork
from snakepit_bridge._errors.guards import ReportTo
from snakepit_bridge._telemetry import tracing
from snakepit_bridge._threads.loop_thread import shared
from snakepit_bridge._threads.results import awaited, generator_of, is_awaitable, send_all

if TYPE_CHECKING:
    from snakepit_bridge._native import AsyncCall, BatchRun, Server


class AsyncCalls:
    """Starts the server's `async` calls on the worker's event loop."""

    def __init__(self, server: Server, sessions: Sessions) -> None:
        self._server = server
        self._sessions = sessions
        self._loop = shared().loop
        #: The context variables with which tasks start.
        self._context = context_variables.new()
        #: Keeps the tasks alive: the loop has only weak references to them.
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.call_soon_threadsafe(self._loop.add_reader, server.loop_fd(), self._take)

    def _take(self) -> None:
        calls, resumes = self._server.take_for_loop()
        for resume in resumes:
            resume()
        for call in calls:
            with ReportTo(call.fail):
                self._start(call)

    def _start(self, call: Union[AsyncCall, BatchRun]) -> None:
        if isinstance(call, _native.BatchRun):
            running = _run_batch(call, self._sessions)
        else:
            running = _run(call, self._sessions)
        try:
            task = self._context.run(self._loop.create_task, running)
        except BaseException:
            # The user's code may have set a task factory, which may raise.
            running.close()
            raise
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._ended, call))
        call.on_cancel(functools.partial(self._loop.call_soon_threadsafe, task.cancel))

    def _ended(self, call: Union[AsyncCall, BatchRun], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            # It was cancelled before its first step.
            call.fail(asyncio.CancelledError())


async def _run(call: AsyncCall, sessions: Sessions) -> None:
    # Another task may have had the event loop for long.
    if not call.begin():
        return
    with ReportTo(call.fail):
        context_variables.set_decimal()
        running.set(Context(request_id=call.request_id))
        tracing.attach(call.metadata)
        keywords = call.keywords()
        if call.session is not None:
            await _settle(sessions, SessionKey(*call.session))
        if call.streams:
            await send_all(call.function(**keywords), functools.partial(_send, call))
            exit_fork()
            call.finish(None, streamed=True)
        else:
            await _finish(call, await call.function(**keywords))


async def _run_batch(batch: BatchRun, sessions: Sessions) -> None:
    with ReportTo(batch.fail):
        context_variables.set_decimal()
        running.set(Context(request_id=batch.request_id))
        tracing.attach(batch.metadata)
        keywords = batch.keywords()
        if keywords is None:
            batch.skip()
            return
        for session in batch.sessions:
            await _settle(sessions, SessionKey(*session))
        value = await batch.function(**keywords)
        exit_fork()
        batch.finish(await awaited(value) if is_awaitable(value) else value)


async def _finish(call: AsyncCall, value: Any) -> None:
    """Answers with the returned value, which may itself have to be awaited or iterated over."""
    exit_fork()
    if is_awaitable(value):
        value = await awaited(value)
    generator: Any = generator_of(value, call.name, stream=call.is_stream)
    if generator is None:
        call.finish(value)
        return
    returned: object = None
    if inspect.isasyncgen(generator):
        await send_all(generator, functools.partial(_send, call))
    else:
        returned = await _iterate(call, generator)
    call.finish(returned, streamed=True)


async def _iterate(call: AsyncCall, generator: Generator[object, Any, object]) -> object:
    """Sends the values that a plain generator yields; returns its return value."""
    with contextlib.closing(generator):
        while True:
            try:
                value = next(generator)
            except StopIteration as end:
                exit_fork()
                returned: object = end.value
                return returned
            exit_fork()
            room = _send(call, value)
            if room is not None:
                await room


def _send(call: AsyncCall, value: object) -> Optional[Awaitable[None]]:
    """Sends a chunk; returns a future to await before the next chunk if the buffer is full."""
    if not call.chunk(value):
        return None
    room = asyncio.get_running_loop().create_future()
    call.on_room(functools.partial(_resume, room))
    return room


def _resume(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


async def _settle(sessions: Sessions, key: SessionKey) -> None:
    """Waits until `session_ended` has run for the earlier generation of the session."""
    loop = asyncio.get_running_loop()
    settled = asyncio.Event()
    while sessions.when_settled(key, functools.partial(loop.call_soon_threadsafe, settled.set)):
        await settled.wait()
        settled.clear()
