"""The log of calls: a line for each, at its end."""

from __future__ import annotations

import logging

_log = logging.getLogger("snakepit_bridge.access")


def log_call(peer: str, command: str, request_id: str, outcome: str, seconds: float) -> None:
    """Logs a call of the client at the address `peer`.

    The outcome is `ok`, or the reason of the error. The time is that from the call's arrival.
    """
    _log.info("%s %s %s %s %.1f ms", peer, command, request_id or "-", outcome, 1000 * seconds)
