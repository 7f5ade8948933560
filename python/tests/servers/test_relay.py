"""What becomes of a call on grpcio whose client has left."""

from __future__ import annotations

import threading
from collections.abc import Generator

from client import PATIENCE

from snakepit_bridge._grpcio.relay import Waiting, relay


def _leave(messages: Generator[bytes, None, None], waiting: Waiting) -> None:
    relayed = relay(messages, None, waiting)
    assert next(iter(relayed)) == b"first"
    # grpcio drops it.
    del relayed


def test_nothing_is_reported_to_a_client_that_has_left() -> None:
    waiting = Waiting(2)
    _leave((message for message in (b"first",)), waiting)
    assert [waiting.offer(b"event") for _ in range(3)] == [False] * 3


def test_a_command_that_reports_ends_although_its_client_has_left() -> None:
    waiting = Waiting(2)
    reported, closed = threading.Event(), threading.Event()

    def messages() -> Generator[bytes, None, None]:
        yield b"first"
        reported.wait(PATIENCE)
        try:
            yield b"last"
        finally:
            closed.set()

    _leave(messages(), waiting)
    for _ in range(2):
        waiting.offer(b"event")
    reported.set()
    assert closed.wait(PATIENCE)
