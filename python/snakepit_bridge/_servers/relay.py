"""Enforces the deadline of a stream if its transport does not."""

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


def relay(messages: Generator[bytes, None, None], deadline: float) -> Iterator[bytes]:
    """Forwards `messages` from a separate thread; raises `TimedOutError` at the deadline.

    When this generator ends or is closed, the thread closes `messages` at its next step.
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
