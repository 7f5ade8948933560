"""From threads to the event loop, however many messages per wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Mailbox:
    """Runs callbacks on the loop, in the order in which threads post them."""

    __slots__ = ("_armed", "_callbacks", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._armed = False

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        self._callbacks.append((callback, args))
        # Two threads may both arm it, which costs one idle wake-up. None can be lost: disarming
        # comes before emptying.
        if not self._armed:
            self._armed = True
            try:
                self._loop.call_soon_threadsafe(self._empty)
            except RuntimeError:
                # The loop is closed: the server has stopped and nobody waits for this.
                self._callbacks.clear()

    def _empty(self) -> None:
        self._armed = False
        while self._callbacks:
            callback, args = self._callbacks.popleft()
            callback(*args)
