"""The parent of a worker: a BEAM, which reads announcements on stdout, a shell, or systemd."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Optional

from snakepit_bridge._network.systemd import Systemd

# How a value begins that a BEAM sets for the worker alone. The C library has read it.
_ALLOCATOR = "glibc.malloc.mmap_threshold=16777216:glibc.malloc.trim_threshold=33554432"


class Parent:
    """The settings that the parent passes in the environment, and announcements to it.

    The variables are removed from the environment, so that the worker's children do not get them.
    """

    def __init__(self) -> None:
        self._token = os.environ.pop("SNAKEPIT_READY_TOKEN", "")
        #: The secret that RPCs over TCP must carry.
        self.secret = os.environ.pop("SNAKEPIT_SECRET", "")
        #: The path of the file that records which calls have started.
        self.start_journal = os.environ.pop("SNAKEPIT_START_JOURNAL", "")
        if os.environ.get("GLIBC_TUNABLES", "").startswith(_ALLOCATOR):
            del os.environ["GLIBC_TUNABLES"]
        self._systemd = Systemd()

    @property
    def is_beam(self) -> bool:
        return bool(self._token)

    def ready(self, address: str) -> None:
        """Announces that the server accepts calls at this address."""
        if self.is_beam:
            self._announce(address)
        else:
            print(f"listening on {address}", flush=True)
            self._systemd.notify("READY=1")

    def stopping(self) -> None:
        """Announces that the server is going to end, to a parent that is not a BEAM."""
        self._systemd.notify("STOPPING=1")

    @property
    def draining(self) -> Optional[Callable[[], None]]:
        """A function that announces that the server drains; None if the parent is not a BEAM."""
        return (lambda: self._announce("draining")) if self.is_beam else None

    def _announce(self, what: str) -> None:
        # In one write on the real stdout.
        os.write(1, f"\n{self._token} {what}\n".encode())
