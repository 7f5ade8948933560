"""Events that commands report for telemetry."""

from __future__ import annotations

import logging
import math
import numbers
import threading
import time
from collections.abc import Mapping
from typing import Any, Optional, Union

from snakepit_bridge._telemetry.reports import Reports
from snakepit_bridge._types.invalid import InvalidValueError
from snakepit_bridge._values.extended_writer import encode_extended

#: The number of telemetry events that a worker sends in a second, and at once.
MAX_EVENTS = 1000
#: How long the name of an event may be, in characters, and its values, in bytes.
MAX_NAME = 200
MAX_VALUES = 16 * 1024
#: The shortest time between two log records about dropped events, in seconds.
LOG_INTERVAL = 10.0

_log = logging.getLogger("snakepit_bridge")


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


def send_telemetry(
    reports: Optional[Reports],
    name: str,
    measurements: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> None:
    """Sends an event, if the client takes any and the worker has not sent too many."""
    _check_name(name)
    for what, values in (("measurements", measurements), ("metadata", metadata)):
        if not isinstance(values, Mapping):
            raise TypeError(
                f"expected a dict of the {what} of {name!r}, got {type(values).__name__}"
            )
    numbers_only = {key: _number(value, key, name) for key, value in measurements.items()}
    measured, others = _encoded(numbers_only, "measurements"), _encoded(metadata, "metadata")
    size = len(measured) + len(others)
    if size > MAX_VALUES:
        raise ValueError(
            f"the event {name!r} has {size} bytes of measurements and metadata, and the limit is "
            f"{MAX_VALUES}"
        )
    if reports is not None and not (_budget.take() and reports.telemetry(name, measured, others)):
        _budget.count_dropped()


def _check_name(name: object) -> None:
    # A lone surrogate is not UTF-8.
    if (
        isinstance(name, str)
        and 0 < len(name) <= MAX_NAME
        and name.encode(errors="replace").decode() == name
    ):
        return
    raise ValueError(
        f"expected the event's name, a text of 1 to {MAX_NAME} characters, got {name!r:.100}"
    )


def _number(value: object, key: object, name: str) -> Union[int, float]:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"expected numbers in the measurements of {name!r}, and {key!r} is of type "
            f"{type(value).__name__}: put it into the metadata"
        )
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the measurement {key!r} of {name!r} is {number}")
    return number


def _encoded(values: Mapping[str, Any], root: str) -> bytes:
    try:
        return encode_extended(dict(values), root)
    except InvalidValueError as error:
        raise TypeError(str(error)) from None
