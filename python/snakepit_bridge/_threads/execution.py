"""Runs the command of a call in its thread, and encodes its results as messages."""

from __future__ import annotations

import contextvars
import functools
import logging
from collections.abc import Callable, Generator
from typing import Any, Optional, Union

from snakepit_bridge._commands import context_variables
from snakepit_bridge._commands.call import Batch, Call, StreamWire, UnaryWire
from snakepit_bridge._commands.context import Context, running
from snakepit_bridge._commands.registry import Command
from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._errors.exits import exit_fork
from snakepit_bridge._errors.guards import invalid_args, invalid_result
from snakepit_bridge._errors.raised import is_task_cancelled, shown
from snakepit_bridge._errors.two_way import CallCancelledError
from snakepit_bridge._telemetry import tracing
from snakepit_bridge._threads.runner import Runner, cancelled
from snakepit_bridge._threads.unwrapping import unwrap, wait_for
from snakepit_bridge._values.fields import encode_fields

_log = logging.getLogger("snakepit_bridge")


def run(runner: Runner, call: Call, wire: UnaryWire) -> bytes:
    """Returns the message that answers a unary call."""
    return respond(runner, *_with_wire(call, wire))


def run_together(runner: Runner, calls: list[tuple[Call, UnaryWire]]) -> list[bytes]:
    """Like `run`, for calls of a command that takes batches, which enter at once."""
    return respond_together(runner, [_with_wire(call, wire) for call, wire in calls])


def _with_wire(call: Call, wire: UnaryWire) -> Encoded:
    # The wire must not refer to the call, which refers to it: a cycle would keep its RPC.
    def result(value: object) -> bytes:
        wire.batch = (call.batch_size, call.batch_wait_us)
        return wire.result(*_fields(call, value, "result"))

    def failure_of(failure: CallError) -> bytes:
        wire.batch = (call.batch_size, call.batch_wait_us)
        return wire.failure(failure)

    return call, result, failure_of


def respond(
    runner: Runner,
    call: Call,
    result: Callable[[object], bytes],
    failure_of: Callable[[CallError], bytes],
) -> bytes:
    """Like `run`, for a transport that encodes whole values."""
    if call.command.batching is not None:
        (message,) = respond_together(runner, [(call, result, failure_of)])
        return message
    failed = True
    try:
        runner.enter(call)
        context = _context(call.context)
        message = runner.run(call, lambda: context.run(lambda: result(_result(call))))
        failed = False
    except BaseException as error:
        message = failure_message(failure_of, _failure(call, error), call.command.name)
    finally:
        call.context._leave()  # noqa: SLF001 (not for users)
        runner.leave(call, failed=failed)
    return message


#: A call with the functions that encode its result and its failure.
Encoded = tuple[Call, Callable[[object], bytes], Callable[[CallError], bytes]]


def respond_together(runner: Runner, calls: list[Encoded]) -> list[bytes]:
    """Like `respond`, for calls of a command that takes batches, which enter at once."""
    for call, result, _ in calls:
        call.encode = result
    runner.gather([call for call, _, _ in calls], functools.partial(_run_batch, runner))
    return [_answered(runner, call, failure_of) for call, _, failure_of in calls]


def _answered(runner: Runner, call: Call, failure_of: Callable[[CallError], bytes]) -> bytes:
    failed = True
    try:
        answer = runner.wait(call)
        failed = isinstance(answer, CallError)
    finally:
        call.context._leave()  # noqa: SLF001
        runner.leave(call, failed=failed)
    if isinstance(answer, CallError):
        return failure_message(failure_of, answer, call.command.name)
    return answer


def failure_message(
    failure_of: Callable[[CallError], bytes], failure: CallError, command: str
) -> bytes:
    """Returns the message of a failure, or of an internal error if it cannot be encoded."""
    try:
        return failure_of(failure)
    except BaseException as error:
        return failure_of(CallError.internal(error, command))


def stream(runner: Runner, call: Call, wire: StreamWire) -> Generator[bytes, None, None]:
    """Yields the messages that answer a streaming call. Closing it early closes the command."""
    if call.command.batching is not None:
        yield respond(
            runner,
            call,
            lambda value: wire.chunk(*_fields(call, value, "result"), 0, final=True),
            wire.failure,
        )
        return
    steps = _Messages(call, wire)
    try:
        runner.enter(call)
    except BaseException as error:
        runner.leave(call, failed=True)
        yield failure_message(wire.failure, _failure(call, error), call.command.name)
        return
    try:
        message = runner.run(call, steps.next)
        while message is not None and not steps.ended:
            yield from wire.events()
            yield message
            message = runner.run(call, steps.next)
    finally:
        try:
            runner.run(call, steps.close)
        finally:
            call.context._leave()  # noqa: SLF001
            runner.leave(call, failed=steps.failed)
    yield from wire.events()
    if message is not None:
        yield message


class _Messages:
    """The messages of a streaming command. None of the methods raises."""

    def __init__(self, call: Call, wire: StreamWire) -> None:
        self.ended = False
        self.failed = False
        self._call = call
        self._context = _context(call.context)
        self._wire = wire
        self._index = 0
        self._generator: Optional[Generator[object, None, object]] = None

    def next(self) -> Optional[bytes]:
        """Returns the next message, or None at an end without one; sets `ended` at the end."""
        try:
            self._check_cancelled()
            return self._context.run(self._next)
        except BaseException as error:
            self.ended = self.failed = True
            # A failure in a variable would be a cycle by its traceback, and would keep the RPC.
            return failure_message(
                lambda failure: self._wire.failure(failure, self._index),
                _failure(self._call, error),
                self._call.command.name,
            )

    def close(self) -> None:
        """Ends the command; if it still runs, a GeneratorExit is raised in it."""
        if self._generator is None:
            return
        self._call.closed = not self.ended
        try:
            self._context.run(self._generator.close)
        except BaseException as error:
            _log.warning("%s raised %s when it was closed", self._call.command.name, shown(error))
        if not self.ended:
            self.failed = True

    def _check_cancelled(self) -> None:
        if self._call.context.cancelled:
            self.close()
            raise cancelled()

    def _next(self) -> Optional[bytes]:
        if self._generator is None:
            value, self._generator = _chunks(self._call)
            if self._generator is None:
                return self._final(value)
        try:
            value = next(self._generator)
            exit_fork()
        except StopIteration as stop:
            exit_fork()
            self.ended = True
            return None if stop.value is None else self._final(stop.value)
        message = self._chunk(value, "chunk", final=False)
        # A number of 32 bits: after the largest one comes the smallest.
        self._index = (self._index + 1 + 2**31) % 2**32 - 2**31
        return message

    def _final(self, value: object) -> bytes:
        self.ended = True
        return self._chunk(value, "result", final=True)

    def _chunk(self, value: object, root: str, *, final: bool) -> bytes:
        fields, kinds = _fields(self._call, value, root)
        return self._wire.chunk(fields, kinds, self._index, final=final)


def _run_batch(runner: Runner, batch: Batch) -> None:
    """Serves a batch. Does not raise."""
    calls = list(batch.calls)
    try:
        # Log lines of several calls have no request id, and spans cannot have several parents.
        context = _context(calls[0].context if len(calls) == 1 else Context())
        context.run(_serve_batch, runner, batch, calls)
    except BaseException as error:
        _fail_batch(runner, batch, error)


def _serve_batch(runner: Runner, batch: Batch, calls: list[Call]) -> None:
    items: list[dict[str, Any]] = []
    served: list[Call] = []
    for call in calls:
        try:
            items.append(_keywords(call))
            served.append(call)
        except BaseException as error:
            runner.answer(batch, call, _failure(call, error))
    if not served:
        return
    command = batch.command
    make = functools.partial(command.function, **command.gather(items))
    value = wait_for(_made(command, batch, make), batch)
    results = command.results(value, len(served))
    for call, result in zip(served, results):
        runner.answer(batch, call, _answer_of(call, result))


def _answer_of(call: Call, result: object) -> Union[bytes, CallError]:
    try:
        if isinstance(result, BaseException):
            return _failure(call, result)
        assert call.encode is not None
        return call.encode(result)
    except BaseException as error:
        return _failure(call, error)


def _fail_batch(runner: Runner, batch: Batch, error: BaseException) -> None:
    left = list(batch.calls)
    if left:
        failure = _failure(left[0], error)
        for call in left:
            runner.answer(batch, call, failure)


def _context(of_call: Context) -> contextvars.Context:
    context = context_variables.new()
    context.run(running.set, of_call)
    context.run(tracing.attach, lambda: of_call.metadata)
    return context


def _result(call: Call) -> object:
    return unwrap(_value(call), call, call.command.name, stream=False)[0]


def _chunks(call: Call) -> tuple[object, Optional[Generator[object, None, object]]]:
    """Returns a generator of chunks, or the value that is the only chunk."""
    command = call.command
    if not command.streams:
        return unwrap(_value(call), call, command.name, stream=True)
    make = functools.partial(command.function, **_keywords(call))
    if not command.is_async:
        return None, make()
    from snakepit_bridge._threads.async_for_threads import run_generator

    return None, run_generator(call, make)


def _value(call: Call) -> object:
    make = functools.partial(call.command.function, **_keywords(call))
    return _made(call.command, call, make)


def _made(command: Command, call: Union[Call, Batch], make: Callable[[], Any]) -> object:
    if command.is_async:
        from snakepit_bridge._threads.async_for_threads import run_coroutine

        return run_coroutine(call, make)
    value = make()
    exit_fork()
    return value


def _keywords(call: Call) -> dict[str, Any]:
    call.context._settle()  # noqa: SLF001
    with invalid_args:
        keywords = call.command.bind(call.args(), call.context, checked=call.kinds)
    if call.conversation is not None:
        call.conversation.start_inputs()
    return keywords


def _fields(call: Call, value: object, root: str) -> tuple[dict[str, bytes], Optional[bytes]]:
    with invalid_result:
        return encode_fields(value, root, kinds=call.kinds)


def _failure(call: Call, error: BaseException) -> CallError:
    exit_fork(error)
    kind = type(error)
    if issubclass(kind, CallError):
        return error  # type: ignore[return-value]
    if call.context.cancelled:
        task_cancelled = is_task_cancelled(kind)
        call.closed = call.closed or task_cancelled
        if not task_cancelled and not issubclass(kind, (GeneratorExit, CallCancelledError)):
            _log.info("%s raised %s after it was cancelled", call.command.name, shown(error))
        return cancelled()
    return CallError.of(error)
