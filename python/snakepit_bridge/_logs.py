"""What Python prints and logs, line by line to the parent."""

from __future__ import annotations

import io
import logging
import sys

from snakepit_bridge._context import running_request_id

# The level prefixes of sd-daemon(3).
_PREFIXES = ((logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (logging.INFO, "<6>"))


class RequestIdFilter(logging.Filter):
    """Gives records the `request_id` of the call that they come from, "" outside of calls.

    The bridge's own handler has it. Add it to yours to use `%(request_id)s` in a format. What a
    command's own threads log belongs to no call, unless they run in `contextvars.copy_context()`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = running_request_id()
        return True


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, "request_id", "")
        record.request = f"[{request_id}] " if request_id else ""
        return super().format(record)


class _PrefixFormatter(_Formatter):
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
    handler.addFilter(RequestIdFilter())
    if prefixed:
        handler.setFormatter(_PrefixFormatter("%(name)s: %(request)s%(message)s"))
    else:
        handler.setFormatter(_Formatter("%(levelname)s %(name)s: %(request)s%(message)s"))
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)


def yield_to_user() -> None:
    """Takes the bridge's handler away once the user's code has added its own."""
    handlers = logging.root.handlers
    if any(not isinstance(handler, _Handler) for handler in handlers):
        for handler in [each for each in handlers if isinstance(each, _Handler)]:
            logging.root.removeHandler(handler)
