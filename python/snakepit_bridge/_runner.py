"""Runs calls: at most so many at once, the others in the order of their arrival.

Functions and generators run in handler threads, which take the next call by themselves; `async`
commands run on the event loop. Both share one limit.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Optional, Union

from snakepit_bridge._call import Call, Sink
from snakepit_bridge._commands import Kind
from snakepit_bridge._failure import Failure
from snakepit_bridge._mailbox import Mailbox
from snakepit_bridge._values import InvalidValueError, encode_fields

_Outcome = Union[bytes, Failure, None]

_log = logging.getLogger("snakepit_bridge")


class Runner:
    """`submit`, `cancel` and `watch` belong to the thread of the event loop."""

    def __init__(self, mailbox: Mailbox, max_concurrency: int) -> None:
        self.handled = 0
        self.failed = 0
        self._mailbox = mailbox
        self._lock = threading.Lock()
        self._free = max_concurrency
        self._waiting: OrderedDict[Call, None] = OrderedDict()
        self._in_hand: set[Call] = set()
        self._watchers: list[tuple[Optional[int], Callable[[], object]]] = []
        self._jobs: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._busy_threads = 0
        self._threads = 0

    def submit(self, call: Call) -> None:
        """Runs the call as soon as there is room, unless it is cancelled before."""
        with self._lock:
            self._in_hand.add(call)
            if self._free == 0:
                self._waiting[call] = None
                return
            self._free -= 1
        self._start(call)

    def cancel(self, call: Call) -> None:
        """Tells a call that nobody waits for it any more; one that has not started never does."""
        call.context._cancel()
        ready: list[Callable[[], object]] = []
        with self._lock:
            if not call.started:
                self._waiting.pop(call, None)
                ready = self._leave(call)
        for callback in ready:
            callback()
        if call.started and call.task is not None:
            call.task.cancel()

    def running_call_ids(self) -> list[int]:
        with self._lock:
            return [call.call_id for call in self._in_hand if call.started and call.call_id]

    def active_sessions(self) -> int:
        with self._lock:
            return len({call.context.session_id for call in self._in_hand} - {None})

    def watch(self, call_id: Optional[int], callback: Callable[[], object]) -> None:
        """Calls back once, on the loop, when the call is gone; None means every call."""
        with self._lock:
            if self._is_in_hand(call_id):
                self._watchers.append((call_id, callback))
                return
        callback()

    def unwatch(self, callback: Callable[[], object]) -> None:
        with self._lock:
            self._watchers = [each for each in self._watchers if each[1] is not callback]

    def refuse(self, sink: Sink, failure: Failure) -> None:
        """Answers a call that cannot be run."""
        with self._lock:
            self.handled += 1
            self.failed += 1
        sink.end(failure)

    def _is_in_hand(self, call_id: Optional[int]) -> bool:
        if call_id is None:
            return bool(self._in_hand)
        return any(call.call_id == call_id for call in self._in_hand)

    def _leave(self, call: Call) -> list[Callable[[], object]]:
        self._in_hand.discard(call)
        ready = [each for each in self._watchers if not self._is_in_hand(each[0])]
        for each in ready:
            self._watchers.remove(each)
        return [callback for _, callback in ready]

    def _start(self, call: Call) -> None:
        if call.command.is_async:
            call.task = asyncio.get_running_loop().create_task(self._serve_async(call))
            return
        with self._lock:
            self._busy_threads += 1
            lacking = self._busy_threads > self._threads
            self._threads += lacking
        if lacking:
            name = f"snakepit-handler-{self._threads}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        self._jobs.put(call)

    def _serve(self) -> None:
        """A handler thread's life."""
        while True:
            call: Optional[Call] = self._jobs.get()
            while call is not None:
                if self._begin(call):
                    self._end(call, _outcome(call))
                call = self._next()
                if call is None or call.command.is_async:
                    with self._lock:
                        self._busy_threads -= 1
                    if call is not None:
                        self._mailbox.post(self._start, call)
                    break

    async def _serve_async(self, call: Call) -> None:
        if self._begin(call):
            self._end(call, await _outcome_async(call))
        following = self._next()
        if following is not None:
            self._start(following)

    def _begin(self, call: Call) -> bool:
        with self._lock:
            call.started = not call.context.cancelled
            return call.started

    def _end(self, call: Call, outcome: _Outcome) -> None:
        with self._lock:
            self.handled += 1
            self.failed += isinstance(outcome, Failure)
            ready = self._leave(call)
        call.sink.end(outcome)
        for callback in ready:
            self._mailbox.post(callback)

    def _next(self) -> Optional[Call]:
        """The call that takes over the place of one that ended."""
        with self._lock:
            if self._waiting:
                return self._waiting.popitem(last=False)[0]
            self._free += 1
            return None


def _outcome(call: Call) -> _Outcome:
    try:
        keywords = _keywords(call)
        if call.command.kind is Kind.GENERATOR:
            return _drive(call, call.command.function(**keywords))
        return _packed(call, call.command.function(**keywords))
    except BaseException as error:
        return _failure(call, error)


async def _outcome_async(call: Call) -> _Outcome:
    try:
        keywords = _keywords(call)
        if call.command.kind is Kind.ASYNC_GENERATOR:
            return await _drive_async(call, call.command.function(**keywords))
        return _packed(call, await call.command.function(**keywords))
    except BaseException as error:
        return _failure(call, error)


def _keywords(call: Call) -> dict[str, Any]:
    try:
        return call.command.bind(call.args(), call.context)
    except InvalidValueError as error:
        raise Failure("invalid_args", str(error)) from None


def _packed(call: Call, value: object, *, final: bool = True) -> bytes:
    try:
        fields = encode_fields(value, "result" if final else "chunk")
    except InvalidValueError as error:
        raise Failure("invalid_result", str(error)) from None
    return call.sink.pack(fields, final=final)


def _drive(call: Call, generator: Generator[object, None, object]) -> _Outcome:
    send = call.sink.send
    try:
        while send(_packed(call, next(generator), final=False)):
            pass
    except StopIteration as stop:
        return None if stop.value is None else _packed(call, stop.value)
    finally:
        generator.close()
    return _cancelled()


async def _drive_async(call: Call, generator: AsyncGenerator[object, None]) -> _Outcome:
    send = call.sink.send_async
    try:
        async for value in generator:
            if not await send(_packed(call, value, final=False)):
                return _cancelled()
    finally:
        await generator.aclose()
    return None


def _failure(call: Call, error: BaseException) -> Failure:
    if isinstance(error, Failure):
        return error
    if call.context.cancelled:
        if not isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            _log.info("%s raised %r after it was cancelled", call.command.name, error)
        return _cancelled()
    return Failure.of(error, hidden=__file__)


def _cancelled() -> Failure:
    return Failure("cancelled", "the call was cancelled")
