"""What Python prints and logs, line by line to the parent."""

from __future__ import annotations

import io
import logging
import sys

# The level prefixes of sd-daemon(3).
_PREFIXES = ((logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (logging.INFO, "<6>"))


class _PrefixFormatter(logging.Formatter):
    """Marks every line with its level, so that the parent can log it at the same level."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = next((p for level, p in _PREFIXES if record.levelno >= level), "<7>")
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """The root handler while the user has none."""


def set_up(*, prefixed: bool) -> None:
    """Lines leave at once and whole, and the root logger has a handler unless it had one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")
    if logging.root.handlers:
        return
    handler = _Handler(sys.stderr)
    if prefixed:
        handler.setFormatter(_PrefixFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)


def yield_to_user() -> None:
    """Takes the bridge's handler away once the user's code has added its own."""
    handlers = logging.root.handlers
    if any(not isinstance(handler, _Handler) for handler in handlers):
        for handler in [each for each in handlers if isinstance(each, _Handler)]:
            logging.root.removeHandler(handler)
