"""The progress of calls."""

from __future__ import annotations

import threading
import time
from typing import Optional

from snakepit_bridge._telemetry.reports import Reports

#: The shortest time between two reports of a call's progress, in seconds.
INTERVAL = 0.1
#: How long a message may be, in characters; it is cut.
MAX_MESSAGE = 1000


class ProgressReports:
    """Sends the progress of a call, at most ten times a second and the last report always."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._lock = threading.Lock()
        self._sent_at = -INTERVAL
        self._due: Optional[tuple[float, str]] = None
        self._timer: Optional[threading.Timer] = None
        self._ended = False

    def add(self, fraction: float, message: str) -> None:
        """Sends a report, now or once the interval is over; a later one replaces one that waits."""
        with self._lock:
            if self._ended:
                return
            self._due = fraction, message
            if self._timer is not None:
                return
            left = self._sent_at + INTERVAL - time.monotonic()
            if left <= 0:
                self._send()
                return
            self._timer = threading.Timer(left, self._fire)
            self._timer.daemon = True
            try:
                self._timer.start()
            except RuntimeError:
                # No thread can be started: the next report, or the end, sends it.
                self._timer = None

    def end(self) -> None:
        """Sends the report that waits; none is sent after it."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._send()
            self._ended = True

    def _fire(self) -> None:
        with self._lock:
            self._timer = None
            self._send()

    def _send(self) -> None:
        if self._due is not None and not self._ended:
            fraction, message = self._due
            self._due = None
            self._sent_at = time.monotonic()
            self._reports.progress(fraction, message)


def checked_progress(fraction: float, message: str) -> tuple[float, str]:
    """Returns the arguments of `context.progress` as they are sent."""
    number = float(fraction)
    if number != number:  # noqa: PLR0124 (NaN)
        raise ValueError("expected a fraction from 0 to 1, got nan")
    # A file's name may have what UTF-8 cannot represent.
    text = str(message)[:MAX_MESSAGE].encode(errors="replace").decode()
    return min(max(number, 0.0), 1.0), text
