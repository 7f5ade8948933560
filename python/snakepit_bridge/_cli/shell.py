"""`python -m snakepit_bridge call` and `commands`: run or list an adapter's commands."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from snakepit_bridge._cli.loading import find_adapter
from snakepit_bridge._errors.exits import StartError
from snakepit_bridge._errors.raised import Raised
from snakepit_bridge._process import logs
from snakepit_bridge._process.options import add_import_path
from snakepit_bridge.testing import CallError, Worker, error_of


class _NoReaderError(Exception):
    """The reader of the output has closed the pipe, as `head` does."""


def main(arguments: Sequence[str]) -> int:
    """Runs `call` or `commands`; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for pairs in ("arguments", "init"):
        setattr(options, pairs, _unique(parser, getattr(options, pairs, [])))
    logs.set_up(prefixed=False, level=options.log_level)
    try:
        adapter = find_adapter(options.adapter, options.import_path)
    except StartError as error:
        return _fail(str(error))
    with contextlib.ExitStack() as stack:
        try:
            worker = stack.enter_context(Worker(adapter, init=options.init))
        except (Exception, SystemExit) as error:
            print(Raised(error).text(), file=sys.stderr)
            return _fail(f"{options.adapter} did not start: see the error above")
        try:
            return int(options.run(worker, options))
        except _NoReaderError:
            return 1


def _call(worker: Worker, options: argparse.Namespace) -> int:
    names = {command["name"]: command for command in worker.commands}
    if options.command not in names:
        return _fail(
            f"the adapter {options.adapter} has no command {options.command!r}; there are "
            f"{', '.join(names)}"
        )
    args = options.arguments
    given = {"timeout": options.timeout, "session_id": options.session}
    try:
        if names[options.command]["streams"]:
            for chunk in worker.stream(options.command, args, **given):
                _show(chunk)
        else:
            _show(worker.call(options.command, args, **given))
    except _NoReaderError:
        raise
    except CallError as error:
        return _fail(str(error))
    except (Exception, SystemExit) as raised:
        seen = error_of(raised)
        print(seen.details["traceback"], end="", file=sys.stderr)
        return _fail(str(seen))
    return 0


def _commands(worker: Worker, _options: argparse.Namespace) -> int:
    for command in worker.commands:
        is_async = "async " if command["is_async"] else ""
        streams = " -> stream" if command["streams"] else ""
        _print(f"{is_async}{command['signature']}{streams}")
        if command["doc"]:
            _print(textwrap.indent(command["doc"], "    "))
    return 0


def _show(value: object) -> None:
    _print(json.dumps(value, ensure_ascii=False, default=_shown))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Keep Python's final flush from failing.
        sys.stdout = None
        raise _NoReaderError from None


def _shown(value: Any) -> object:
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _fail(message: str) -> int:
    print(f"snakepit_bridge: {message}", file=sys.stderr)
    return 1


def _unique(parser: argparse.ArgumentParser, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in given if names.count(name) > 1)
        parser.error(f"{twice} is given more than once")
    return given


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m snakepit_bridge")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    call = parsers.add_parser(
        "call",
        help="run a command in this process",
        description="Runs a command in this process, without a pool, and prints the result that "
        "Elixir would receive as JSON, the chunks of a stream one per line. Exits with status 1 if "
        "the command fails.",
    )
    _add_common(call)
    call.add_argument("command", help="the name of the command")
    call.add_argument(
        "arguments",
        nargs="*",
        type=_pair,
        metavar="NAME=VALUE",
        help="a value is JSON if it parses, otherwise text: n=1, names='[\"a\"]', digits='\"123\"'",
    )
    call.add_argument("--timeout", type=float, metavar="SECONDS", help="the deadline of the call")
    call.add_argument("--session", metavar="ID", help="the id of the call's session")
    call.set_defaults(run=_call)
    commands = parsers.add_parser(
        "commands",
        help="list an adapter's commands",
        description="Lists an adapter's commands, with their parameters and docstrings.",
    )
    _add_common(commands)
    commands.set_defaults(run=_commands)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="MODULE:CLASS", help="a subclass of Adapter")
    add_import_path(parser)
    parser.add_argument(
        "--init",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="a keyword argument of the class's __init__; may be repeated",
    )
    parser.add_argument(
        "--log-level",
        choices=list(logs.LEVELS),
        default="warning",
        help="the lowest level of records to show, on stderr (default: %(default)s)",
    )
