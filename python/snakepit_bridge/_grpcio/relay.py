"""Sends the messages of a call from another thread: until a deadline, or with its events."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import Optional, Union

#: The number of messages that may wait for the network.
MESSAGES_AHEAD = 32


class TimedOutError(Exception):
    """The deadline passed before the next message."""


class Waiting(queue.Queue[Union[bytes, BaseException, None]]):
    """The messages that wait for the network: those of a call, and others that were offered."""

    def __init__(self, most: int = MESSAGES_AHEAD) -> None:
        """`most`: how many may wait; 0: any number."""
        super().__init__(most)
        self.closed = False

    def offer(self, message: bytes) -> bool:
        """Adds a message; returns false if there is no room for a second, or if it is closed."""
        try:
            self.put(message, timeout=1.0)
        except queue.Full:
            return False
        return not self.closed

    def close(self) -> None:
        """Drops what waits and what is still added, so that nobody waits for room."""
        with self.mutex:
            self.closed = True
            self.queue.clear()
            self.not_full.notify_all()

    def take(self, deadline: Optional[float]) -> Union[bytes, BaseException, None]:
        """Returns the next message; raises `TimedOutError` at the deadline, whatever waits."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOutError
        try:
            return self.get(timeout=left)
        except queue.Empty:
            raise TimedOutError from None

    def _put(self, item: Union[bytes, BaseException, None]) -> None:
        if not self.closed:
            super()._put(item)


def relay(
    messages: Generator[bytes, None, None],
    deadline: Optional[float],
    waiting: Optional[Waiting] = None,
) -> Iterator[bytes]:
    """Forwards `messages` from a separate thread; raises `TimedOutError` at the deadline.

    What is offered to `waiting` is forwarded as well. When this generator ends or is closed, it
    closes `waiting`, and the thread closes `messages` at its next step.
    """
    waiting = Waiting() if waiting is None else waiting

    def feed() -> None:
        end: Optional[BaseException] = None
        try:
            for message in messages:
                waiting.put(message)
                if waiting.closed:
                    messages.close()
                    return
        except BaseException as error:
            end = error
        waiting.put(end)

    threading.Thread(target=feed, name="snakepit-relay", daemon=True).start()
    try:
        while True:
            message = waiting.take(deadline)
            if message is None:
                return
            if not isinstance(message, bytes):
                raise message
            yield message
    finally:
        waiting.close()
