"""A call in a worker, independent of its transport."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Optional, Protocol

from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.registry import Command
from snakepit_bridge._errors.call_error import CallError

#: Returns the number of an arriving call, in the order of arrival.
arrival = itertools.count().__next__


class UnaryWire(Protocol):
    """Encodes the result of a unary call as a message; `result` may raise a `CallError`."""

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
        "args",
        "call_id",
        "closed",
        "command",
        "context",
        "ended",
        "interrupt",
        "kinds",
        "order",
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
    ) -> None:
        self.command = command
        #: Decodes the arguments, in the thread that runs the command.
        self.args = args
        self.context = context
        self.call_id = call_id
        self.order = arrival() if order is None else order
        #: Whether the caller reads the kinds of values.
        self.kinds = kinds
        self.started = False
        self.ended = False
        #: Whether it was ended from outside: its generator was closed, or its task cancelled.
        self.closed = False
        #: The lock that its thread acquires to wait until the call is admitted.
        self.admission: Optional[threading.Lock] = None
        #: Stops an async command that has started.
        self.interrupt: Optional[Callable[[], object]] = None

    def on_cancel(self, stop: Callable[[], object]) -> None:
        """Calls `stop` when the call is cancelled, or at once if it already is."""
        self.interrupt = stop
        if self.context.cancelled:
            stop()
