"""What a command reports while its call runs: its progress, and events for telemetry."""

from __future__ import annotations

import logging
import math
import numbers
import threading
import time
from collections.abc import Mapping
from typing import Any, Optional, Protocol

from snakepit_bridge._types.invalid import InvalidValueError
from snakepit_bridge._values.extended_writer import encode_extended

#: The events that a client may take; a request has their sum.
TAKES_TELEMETRY = 1
TAKES_PROGRESS = 2

#: The shortest time between two reports of a call's progress, in seconds.
INTERVAL = 0.1
#: How long a message may be, in characters; it is cut.
MAX_MESSAGE = 1000

#: The number of telemetry events that a worker sends in a second, and at once.
MAX_EVENTS = 1000
#: How long the name of an event may be, in characters, and its values, in bytes.
MAX_NAME = 200
MAX_VALUES = 16 * 1024
#: The shortest time between two log records about dropped events, in seconds.
LOG_INTERVAL = 10.0

_log = logging.getLogger("snakepit_bridge")


class Reports(Protocol):
    """Sends the reports of one call to its client. `telemetry` returns whether it was sent."""

    def progress(self, fraction: float, message: str, /) -> object: ...

    def telemetry(self, name: str, measurements: bytes, metadata: bytes, /) -> bool: ...


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


class _Budget:
    """Limits how many events this worker sends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = float(MAX_EVENTS)
        self._at = time.monotonic()
        self._dropped = 0
        self._logged_at = -LOG_INTERVAL

    def take(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._left = min(MAX_EVENTS, self._left + (now - self._at) * MAX_EVENTS)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def count_dropped(self) -> None:
        with self._lock:
            self._dropped += 1
            now = time.monotonic()
            if now - self._logged_at < LOG_INTERVAL:
                return
            dropped, self._dropped, self._logged_at = self._dropped, 0, now
        _log.warning(
            "%s events of context.telemetry were dropped: a worker sends at most %s a second, and "
            "none while its client does not read",
            dropped,
            MAX_EVENTS,
        )


_budget = _Budget()


def checked_progress(fraction: float, message: str) -> tuple[float, str]:
    """Returns the arguments of `context.progress` as they are sent."""
    number = float(fraction)
    if number != number:  # noqa: PLR0124 (NaN)
        raise ValueError("expected a fraction from 0 to 1, got nan")
    return min(max(number, 0.0), 1.0), str(message)[:MAX_MESSAGE]


def send_telemetry(
    reports: Optional[Reports],
    name: str,
    measurements: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> None:
    """Sends an event, if the client takes any and the worker has not sent too many."""
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"expected the event's name, a text of 1 to {MAX_NAME} characters")
    for key, value in measurements.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(
                f"expected numbers in the measurements of {name!r}, and {key!r} is of type "
                f"{type(value).__name__}: put it into the metadata"
            )
        if not math.isfinite(value):
            raise ValueError(f"the measurement {key!r} of {name!r} is {value}")
    measured, others = _encoded(measurements, "measurements"), _encoded(metadata, "metadata")
    size = len(measured) + len(others)
    if size > MAX_VALUES:
        raise ValueError(
            f"the event {name!r} has {size} bytes of measurements and metadata, and the limit is "
            f"{MAX_VALUES}"
        )
    if reports is not None and not (_budget.take() and reports.telemetry(name, measured, others)):
        _budget.count_dropped()


def _encoded(values: Mapping[str, Any], root: str) -> bytes:
    try:
        return encode_extended(dict(values), root)
    except InvalidValueError as error:
        raise TypeError(str(error)) from None
