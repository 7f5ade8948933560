"""A call in a worker, independent of its transport, and a batch of calls."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Optional, Protocol, Union

from snakepit_bridge._arguments.batching import Batching
from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.registry import Command
from snakepit_bridge._errors.call_error import CallError

if TYPE_CHECKING:
    from snakepit_bridge._two_way.conversation import Conversation

#: Returns the number of an arriving call, in the order of arrival.
arrival = itertools.count().__next__


class UnaryWire(Protocol):
    """Encodes the result of a unary call as a message; `result` may raise a `CallError`."""

    #: How many calls its batch had, and how long it waited for that, in microseconds.
    batch: tuple[int, int]

    def result(self, fields: Mapping[str, bytes], kinds: Optional[bytes]) -> bytes: ...

    def failure(self, failure: CallError) -> bytes: ...


class StreamWire(Protocol):
    """Encodes the chunks of a stream as messages; `chunk` may raise a `CallError`.

    `events` returns the messages of what the command has reported since the last time.
    """

    def events(self) -> Iterable[bytes]: ...

    def chunk(
        self, fields: Mapping[str, bytes], kinds: Optional[bytes], index: int, *, final: bool
    ) -> bytes: ...

    def failure(self, failure: CallError, index: int = 0) -> bytes: ...


class Call:
    """A command with its arguments and its context."""

    __slots__ = (
        "admission",
        "answer",
        "args",
        "arrived",
        "batch_size",
        "batch_wait_us",
        "call_id",
        "closed",
        "command",
        "context",
        "conversation",
        "encode",
        "ended",
        "interrupt",
        "kinds",
        "order",
        "size",
        "started",
    )

    def __init__(
        self,
        command: Command,
        args: Callable[[], dict[str, Any]],
        context: Context,
        *,
        call_id: int = 0,
        order: Optional[int] = None,
        kinds: bool = False,
        size: int = 0,
        conversation: Optional[Conversation] = None,
    ) -> None:
        self.command = command
        #: Decodes the arguments, in the thread that runs the command.
        self.args = args
        self.context = context
        self.call_id = call_id
        self.order = arrival() if order is None else order
        #: Whether the caller reads the kinds of values.
        self.kinds = kinds
        #: Its asks and its input streams, if it is two-way.
        self.conversation = conversation
        self.started = False
        self.ended = False
        #: Whether it was ended from outside: its generator was closed, or its task cancelled.
        self.closed = False
        #: The lock that its thread acquires to wait until the call is admitted.
        self.admission: Optional[threading.Lock] = None
        #: Stops an async command that has started.
        self.interrupt: Optional[Callable[[], object]] = None
        # Only for a command that takes batches:
        #: How large its arguments are, in bytes.
        self.size = size
        #: Encodes its result as a message.
        self.encode: Optional[Callable[[object], bytes]] = None
        #: When it arrived, how many calls its batch had, and how long that waited for it.
        self.arrived = 0.0
        self.batch_size = 0
        self.batch_wait_us = 0
        #: The message that answers it, or its error, once there is one.
        self.answer: Union[bytes, CallError, None] = None

    def on_cancel(self, stop: Callable[[], object]) -> None:
        """Calls `stop` when the call is cancelled, or at once if it already is."""
        self.interrupt = stop
        if self.context.cancelled:
            stop()


class History:
    """What a runner knows of the batches of a command."""

    __slots__ = ("calls", "ended", "running")

    def __init__(self) -> None:
        self.running = 0
        #: When the last batch ended, and how many calls of the command there were then.
        self.ended = float("-inf")
        self.calls = 0


class Batch:
    """Calls of one command that gather, and are served by one call of its function.

    The runner's lock guards its calls and times.
    """

    def __init__(self, command: Command, limits: Batching, run: Callable[[Batch], None]) -> None:
        self.command = command
        #: In the order of their arrival; the answered ones leave once it has started.
        self.calls: list[Call] = []
        #: How many calls it had when it started.
        self.size = 0
        self.started = False
        #: Runs the command, once the batch has started.
        self.run = run
        self._limits = limits
        self._bytes = 0
        self._since = 0.0
        self._closed = False
        self._interrupt: Optional[Callable[[], object]] = None
        self._interrupted = False
        self._guard = threading.Lock()

    def add(self, call: Call, now: float) -> bool:
        """Adds a call, if there is room."""
        if self.calls and self._bytes + call.size > self._limits.max_bytes:
            self._closed = True
        if self.is_full:
            return False
        if not self.calls:
            self._since = now
        call.arrived = now
        self._bytes += call.size
        self.calls.append(call)
        return True

    def remove(self, call: Call) -> None:
        self.calls.remove(call)
        self._bytes -= call.size
        self._closed = False

    @property
    def is_full(self) -> bool:
        return (
            self._closed
            or len(self.calls) >= self._limits.size
            or self._bytes >= self._limits.max_bytes
        )

    def wait_from(self, now: float) -> None:
        """The place for it has become free only now."""
        self._since = now

    def due(self, history: History) -> float:
        """Returns when it starts if no further call comes."""
        wait = self._limits.wait_ms / 1000
        if self.is_full:
            return self._since
        if history.running:
            return self._since + wait
        if len(self.calls) >= min(history.calls, self._limits.size):
            return self._since
        return min(self._since, history.ended) + wait

    def start(self, now: float) -> None:
        self.started = True
        self.size = len(self.calls)
        for call in self.calls:
            call.started = True
            call.batch_size = self.size
            call.batch_wait_us = int((now - call.arrived) * 1_000_000)

    def on_cancel(self, stop: Callable[[], object]) -> None:
        """Calls `stop` when all calls are cancelled, or at once if they already are."""
        with self._guard:
            self._interrupt = stop
            if not self._interrupted:
                return
        stop()

    def interrupt(self) -> None:
        with self._guard:
            self._interrupted = True
            stop = self._interrupt
        if stop is not None:
            stop()
