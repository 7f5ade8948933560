"""Sends the output and the log records of Python to the parent, line by line."""

from __future__ import annotations

import faulthandler
import functools
import io
import logging
import sys
from functools import cache
from typing import Any

from snakepit_bridge._commands.context import running_request_id

# The names of the levels on the command line.
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# The level prefixes of sd-daemon(3).
_PREFIXES = ((logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (logging.INFO, "<6>"))


class RequestIdFilter(logging.Filter):
    """Adds the `request_id` of the running call to log records; "" outside a call.

    The bridge's own handler has this filter. Add it to a handler of your own to use
    `%(request_id)s` in its format. Records from threads that a command starts belong to no call,
    unless the threads run in `contextvars.copy_context()`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = running_request_id()
        return True


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, "request_id", "")
        record.request = f"[{request_id}] " if request_id else ""
        return super().format(record)


class _Prefixed(logging.Formatter):
    """Prefixes every line of another formatter with its level, for the parent's log."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        prefix = next((p for level, p in _PREFIXES if record.levelno >= level), "<7>")
        # The parent reads the request id of the line between the separators.
        if request_id := getattr(record, "request_id", ""):
            prefix += f"\x1f{request_id}\x1f"
        lines = self._formatter.format(record).splitlines()
        return "\n".join(prefix + line for line in lines)


class _LibraryFilter(logging.Filter):
    """Passes records of libraries from warning on, or from the level of their loggers on."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING or not _is_library(record.name.partition(".")[0]):
            return True
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and logger is not logging.root:
            if logger.level != logging.NOTSET:
                return True
            logger = logger.parent
        return False


@cache
def _is_library(package: str) -> bool:
    """Whether the first part of a logger's name is an installed or a standard package."""
    spec = getattr(sys.modules.get(package), "__spec__", None)
    origin = str(getattr(spec, "origin", None) or "")
    if package in ("", "__main__", "snakepit_bridge"):
        return False
    import sysconfig

    installed = ("site-packages", "dist-packages")
    return any(part in origin.split("/") for part in installed) or origin.startswith(
        sysconfig.get_path("stdlib") + "/"
    )


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """The handler of the root logger until the user adds one."""


def set_up(*, prefixed: bool, level: str) -> None:
    """Has lines written at once and whole, and adds a root handler unless there is one."""
    # Print the Python frames when the process crashes in C code. The frames of C, which come last,
    # would leave no room for them among the last lines that an error shows.
    if sys.version_info >= (3, 14):
        faulthandler.enable(all_threads=False, c_stack=False)
    else:
        faulthandler.enable(all_threads=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")
    if logging.root.handlers:
        return
    handler = _Handler(sys.stderr)
    handler.addFilter(RequestIdFilter())
    handler.addFilter(_LibraryFilter())
    if prefixed:
        handler.setFormatter(_Prefixed(_Formatter("%(name)s: %(request)s%(message)s")))
    else:
        handler.setFormatter(_Formatter("%(levelname)s %(name)s: %(request)s%(message)s"))
    logging.root.addHandler(handler)
    logging.root.setLevel(LEVELS[level])
    _give_way(handler, prefixed=prefixed)


def _give_way(own: logging.Handler, *, prefixed: bool) -> None:
    """Makes `logging.basicConfig` ignore the bridge's handler, so that it works as in a script."""
    configure = logging.basicConfig

    @functools.wraps(configure)
    def basic_config(**options: Any) -> None:
        had = own in logging.root.handlers
        logging.root.removeHandler(own)
        try:
            configure(**options)
        finally:
            if had and not logging.root.handlers:
                logging.root.addHandler(own)
        if prefixed:
            _prefix_users()

    logging.basicConfig = basic_config


def yield_to_user(*, prefixed: bool) -> None:
    """Removes the bridge's handler if the user's code has added one."""
    handlers = logging.root.handlers
    if any(not isinstance(handler, _Handler) for handler in handlers):
        for handler in [each for each in handlers if isinstance(each, _Handler)]:
            logging.root.removeHandler(handler)
    if prefixed:
        _prefix_users()


def _prefix_users() -> None:
    """Makes the user's handlers for stdout and stderr write the level prefixes as well."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for handler in [each for logger in loggers for each in getattr(logger, "handlers", ())]:
        if (
            type(handler).emit is logging.StreamHandler.emit
            and handler.stream in (sys.stdout, sys.stderr)
            and not isinstance(handler.formatter, _Prefixed)
        ):
            handler.addFilter(RequestIdFilter())
            handler.setFormatter(_Prefixed(handler.formatter or logging.Formatter()))
