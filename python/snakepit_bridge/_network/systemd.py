"""Tells systemd of a unit with `Type=notify` how far its service is."""

from __future__ import annotations

import contextlib
import os


class Systemd:
    """Does nothing where no systemd waits. The commands' own processes cannot notify it."""

    def __init__(self) -> None:
        path = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path

    def notify(self, state: str) -> None:
        if not self._address:
            return
        import socket

        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(state.encode(), self._address)
