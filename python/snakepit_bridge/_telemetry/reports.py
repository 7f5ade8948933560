"""What sends the reports of a call to its client."""

from __future__ import annotations

from typing import Protocol

#: The events that a client may take; a request has their sum.
TAKES_TELEMETRY = 1
TAKES_PROGRESS = 2


class Reports(Protocol):
    """Sends the reports of one call to its client. `telemetry` returns whether it was sent."""

    def progress(self, fraction: float, message: str, /) -> object: ...

    def telemetry(self, name: str, measurements: bytes, metadata: bytes, /) -> bool: ...
