"""One call on its way through a worker, whatever transport it came by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Optional, Protocol, Union

from snakepit_bridge._commands import Command
from snakepit_bridge._context import Context
from snakepit_bridge._failure import Failure


class Sink(Protocol):
    """Where a call's results go: a transport's side of a call. Any thread may use it."""

    def pack(self, fields: Mapping[str, bytes], *, final: bool) -> bytes:
        """The message that carries `fields`, or a `Failure` if it cannot be sent."""
        ...

    def send(self, message: bytes) -> bool:
        """Takes a chunk and waits while the consumer is behind; False if nobody wants more."""
        ...

    async def send_async(self, message: bytes) -> bool:
        """`send` on the event loop."""
        ...

    def end(self, outcome: Union[bytes, Failure, None]) -> None:
        """Takes the result, the final chunk or the error. None ends a stream as it is."""
        ...


class Call:
    """A command with its arguments, its context and its sink."""

    __slots__ = ("args", "call_id", "command", "context", "sink", "started", "task")

    def __init__(
        self,
        command: Command,
        args: Callable[[], dict[str, Any]],
        context: Context,
        sink: Sink,
        *,
        call_id: int = 0,
    ) -> None:
        self.command = command
        #: Decodes the arguments, in the thread that runs the command.
        self.args = args
        self.context = context
        self.sink = sink
        self.call_id = call_id
        self.started = False
        #: What runs an async command, once it has started.
        self.task: Optional[asyncio.Task[None]] = None
