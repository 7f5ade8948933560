"""Asks the tools that the caller of a command offers."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, Optional, Protocol

from snakepit_bridge._errors.call_error import CallError
from snakepit_bridge._errors.exits import check_process
from snakepit_bridge._errors.guards import invalid_args
from snakepit_bridge._errors.two_way import CallCancelledError, ToolError
from snakepit_bridge._two_way.event_loops import end_task, resume, running_loop
from snakepit_bridge._values.fields import decode_extended


class Ask(Protocol):
    """A tool that was asked."""

    def is_answered(self) -> bool: ...

    def result(self) -> object:
        """What the tool has returned; raises a `ToolError`, or a `CallCancelledError`."""

    def withdraw(self) -> None:
        """Nobody waits for the answer."""


class Asks(Protocol):
    """Asks the tools of the caller of one call, which its transport provides.

    It raises a `CallError` for arguments that cannot be sent ("invalid_result") and for an answer
    that cannot be read ("invalid_args"); the functions below raise others in its place.
    """

    @property
    def tools(self) -> tuple[str, ...]: ...

    def call(self, tool: str, args: dict[str, Any], timeout: Optional[float], /) -> object:
        """Asks, waits, and returns what the tool has returned.

        Raises a `ToolError`, also after `timeout` seconds, or a `CallCancelledError`.
        """

    def ask(
        self,
        tool: str,
        args: dict[str, Any],
        timeout: Optional[float],
        done: Callable[[], object],
        /,
    ) -> Ask:
        """Asks, and calls `done`, from any thread, once the result is there."""


def arguments(
    tool: str, args: Optional[Mapping[str, Any]], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a tool from a dict and keywords."""
    if args is not None and not isinstance(args, Mapping):
        raise TypeError(
            f"the arguments of the tool {tool!r} are a dict, or keywords, not {type(args).__name__}"
        )
    return {**(args or {}), **more}


def call(asks: Optional[Asks], tool: str, args: dict[str, Any], timeout: Optional[float]) -> object:
    """Asks a tool and waits for its answer."""
    if running_loop() is not None:
        raise RuntimeError(
            f"context.call({tool!r}) would block the event loop: write `await context.acall(...)`"
        )
    asks = _offering(asks, tool)
    timeout = _checked(timeout)
    try:
        return asks.call(tool, args, timeout)
    except CallError as error:
        raise _not_carried(error, tool) from None


async def acall(
    asks: Optional[Asks], tool: str, args: dict[str, Any], timeout: Optional[float]
) -> object:
    """Asks a tool and awaits its answer."""
    import asyncio

    asks = _offering(asks, tool)
    timeout = _checked(timeout)
    loop = asyncio.get_running_loop()
    answered = loop.create_future()
    wake = functools.partial(resume, loop, answered)
    try:
        ask = asks.ask(tool, args, timeout, wake)
    except CallError as error:
        raise _not_carried(error, tool) from None
    timer = None if timeout is None else loop.call_later(timeout, wake)
    try:
        await answered
        if not ask.is_answered():
            raise timed_out(tool, timeout)
        return ask.result()
    except CallCancelledError:
        await end_task()
    except CallError as error:
        raise _not_carried(error, tool) from None
    finally:
        if timer is not None:
            timer.cancel()
        if not ask.is_answered():
            ask.withdraw()


def failed(code: str, message: str, data: object = None, tool: str = "") -> ToolError:
    """Returns the error of a tool. Encoded data are extended JSON, empty if there are none."""
    if isinstance(data, bytes):
        with invalid_args:
            data = decode_extended(data, "the data of the error") if data else None
    return ToolError(code or "error", message, data=data, tool=tool)


def too_large(size: int, limit: int) -> ToolError:
    return ToolError(
        "message_too_large",
        f"the arguments have {size} bytes, over the limit of {limit}: send less at a time, or "
        "raise max_message_size",
    )


def timed_out(tool: str, timeout: Optional[float]) -> ToolError:
    return ToolError("timeout", f"it has not answered within {timeout} s", tool=tool)


def _not_carried(error: CallError, tool: str) -> Exception:
    if error.reason == "invalid_result":
        return TypeError(error.message)
    return ToolError("unsendable", error.message, tool=tool)


def _offering(asks: Optional[Asks], tool: str) -> Asks:
    """Raises a `ToolError` if the caller does not offer the tool."""
    if asks is not None and tool in asks.tools:
        check_process(f"context.call({tool!r})")
        return asks
    offered = () if asks is None else asks.tools
    what = f"no such tool, but {', '.join(offered)}" if offered else "no tools"
    raise ToolError("unknown_tool", f"the caller of this command offers {what}", tool=tool)


def _checked(timeout: Optional[float]) -> Optional[float]:
    given: object = timeout
    if given is not None and not (isinstance(given, (int, float)) and given > 0):
        raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
    # A longer one is none: no thread can wait for it.
    return None if timeout is None or timeout > threading.TIMEOUT_MAX else timeout
