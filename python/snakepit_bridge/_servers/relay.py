"""Streams under a deadline that their transport does not watch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import Optional, Union

#: How many messages may wait for the network.
MESSAGES_AHEAD = 32


class TimedOutError(Exception):
    """There was no next message before the deadline."""


def relay(messages: Generator[bytes, None, None], deadline: float) -> Iterator[bytes]:
    """Passes `messages` on from a thread of their own; raises `TimedOutError` at the deadline.

    Closing it, or its end, lets the thread close `messages` at the next one of them.
    """
    waiting: queue.Queue[Union[bytes, BaseException, None]] = queue.Queue(MESSAGES_AHEAD)
    closed = False

    def feed() -> None:
        end: Optional[BaseException] = None
        try:
            for message in messages:
                waiting.put(message)
                if closed:
                    messages.close()
                    return
        except BaseException as error:
            end = error
        waiting.put(end)

    threading.Thread(target=feed, name="snakepit-relay", daemon=True).start()
    try:
        while True:
            message = waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            if message is None:
                return
            if not isinstance(message, bytes):
                raise message
            yield message
    except queue.Empty:
        raise TimedOutError from None
    finally:
        closed = True
        while not waiting.empty():
            waiting.get_nowait()
