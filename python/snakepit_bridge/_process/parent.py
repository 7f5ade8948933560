"""Who has started a worker: a BEAM, which reads what is announced on stdout, or a shell."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Optional


class Parent:
    """What the parent has put into the environment, and what it is told.

    The variables are removed from it: what the worker starts is not to have them.
    """

    def __init__(self) -> None:
        self._token = os.environ.pop("SNAKEPIT_READY_TOKEN", "")
        #: What a call over TCP has to know.
        self.secret = os.environ.pop("SNAKEPIT_SECRET", "")
        #: The file in which it is noted which calls have started.
        self.start_journal = os.environ.pop("SNAKEPIT_START_JOURNAL", "")

    @property
    def is_beam(self) -> bool:
        return bool(self._token)

    def ready(self, address: str) -> None:
        """Says that calls are welcome at this address."""
        if self.is_beam:
            self._announce(address)
        else:
            print(f"listening on {address}", flush=True)

    @property
    def draining(self) -> Optional[Callable[[], None]]:
        """Says that no more calls are; None where nobody would understand it."""
        return (lambda: self._announce("draining")) if self.is_beam else None

    def _announce(self, what: str) -> None:
        # On the real stdout and in one write.
        os.write(1, f"\n{self._token} {what}\n".encode())
