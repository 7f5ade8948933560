"""One call on its way through a worker, whatever transport it came by."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any, Optional, Protocol

from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.registry import Command
from snakepit_bridge._errors.call_error import CallError

#: Numbers calls in the order in which they arrive.
arrival = itertools.count().__next__


class UnaryWire(Protocol):
    """How a unary call's result becomes a message; `result` may raise a `CallError`."""

    def result(self, fields: Mapping[str, bytes], kinds: Optional[bytes]) -> bytes: ...

    def failure(self, failure: CallError) -> bytes: ...


class StreamWire(Protocol):
    """How a stream's chunks become messages; `chunk` may raise a `CallError`."""

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
        #: Whether the caller reads how values were encoded.
        self.kinds = kinds
        self.started = False
        self.ended = False
        #: Whether it was ended from outside: its generator closed, its task cancelled.
        self.closed = False
        #: What its thread waits at while other calls run.
        self.admission: Optional[threading.Lock] = None
        #: Stops an async command, once it has started.
        self.interrupt: Optional[Callable[[], object]] = None

    def on_cancel(self, stop: Callable[[], object]) -> None:
        """Has `stop` called once the call is cancelled, at once if it is."""
        self.interrupt = stop
        if self.context.cancelled:
            stop()
