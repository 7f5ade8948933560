"""`python -m snakepit_bridge`: one worker process."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import logging
import os
import sys
import sysconfig
from collections.abc import Callable, Sequence
from typing import Optional

from snakepit_bridge._errors.call_error import limit_errors
from snakepit_bridge._process import lifeline, logs, terminal
from snakepit_bridge._process.loading import (
    NoServerError,
    StartError,
    add_import_path,
    load_commands,
)
from snakepit_bridge._types.arrow import as_arrow
from snakepit_bridge._types.encoders import encode_frames_by, mark_unencodable
from snakepit_bridge._version import __version__


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Serves calls until SIGTERM; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] in (["call"], ["commands"]):
        from snakepit_bridge._process import shell

        return shell.main(arguments)
    options = _parser().parse_args(arguments)
    mark_unencodable(mark=options.unencodable == "marker")
    limit_errors(options.max_message_size)
    encode_frames_by(as_arrow if options.frames == "arrow" else None)
    token = os.environ.pop("SNAKEPIT_READY_TOKEN", "")
    secret = os.environ.pop("SNAKEPIT_SECRET", "")
    journal = os.environ.pop("SNAKEPIT_START_JOURNAL", "")
    watched = lifeline.bind_to_parent() if token or options.stdio else False
    init = lifeline.read_message() if options.init_from_stdin else None
    pipes = lifeline.take_stdio() if options.stdio else None
    if token and not options.stdio:
        lifeline.take_lifeline(watched=watched)
    if token or options.stdio:
        terminal.set_up()
    logs.set_up(prefixed=bool(token) or options.stdio, level=options.log_level)
    try:
        if pipes is not None:
            return _serve_stdio(options, pipes, init)
        return _serve(options, token, secret, journal, init)
    except StartError as error:
        print(f"snakepit_bridge: {error}", file=sys.stderr)
        return error.exit_code


def _serve(
    options: argparse.Namespace, token: str, secret: str, journal: str, init: Optional[bytes]
) -> int:
    run = _server(options.server)
    registry = load_commands(options.adapter, options.import_path, init)
    logs.yield_to_user(prefixed=bool(token))

    def ready(address: str) -> None:
        if token:
            lifeline.announce(token, address)
        else:
            print(f"listening on {address}", flush=True)

    leaving = functools.partial(lifeline.announce, token, "draining") if token else None
    return run(registry, options, secret=secret, journal=journal, ready=ready, leaving=leaving)


def _server(name: Optional[str]) -> Callable[..., int]:
    """Returns the function that serves: the extension's, or grpcio's if that is missing."""
    try:
        if name != "grpcio":
            _check_native()
            from snakepit_bridge._servers import native

            return native.run
        missing = None
    except ImportError as error:
        missing = error
        if name == "native":
            raise NoServerError(f"{_native_missing(error)}; or use the server grpcio") from None
    try:
        from snakepit_bridge._servers import grpcio
    except ImportError as error:
        ways = f"{_native_missing(missing)}; or " if missing else ""
        raise NoServerError(
            f"{ways}{error}: the grpcio server needs it: python -m pip install 'grpcio>=1.60' "
            "'protobuf>=4.25'"
        ) from None
    if missing is not None:
        logging.getLogger("snakepit_bridge").warning(
            "%s; serving with grpcio, which is slower", _native_missing(missing)
        )
    return grpcio.run


_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def _check_native() -> None:
    """Refuses the extension for other Pythons: a free-threaded one finds it but cannot load it."""
    found = importlib.util.find_spec("snakepit_bridge._native") if _FREE_THREADED else None
    if found and (found.origin or "").endswith(".abi3.so"):
        raise ImportError("it is not built for a free-threaded Python")


def _native_missing(error: ImportError) -> str:
    task = f"mix snakepit.setup --python {sys.executable}" if _FREE_THREADED else "mix compile"
    return f"the native server does not load ({error}): run `{task}` to build it"


def _serve_stdio(options: argparse.Namespace, pipes: tuple[int, int], init: Optional[bytes]) -> int:
    from snakepit_bridge._servers import stdio

    registry = load_commands(options.adapter, options.import_path, init)
    logs.yield_to_user(prefixed=True)
    return stdio.run(registry, options, pipes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m snakepit_bridge",
        description="Serves an adapter's commands over gRPC, or over stdin and stdout. To run one "
        "in this process or to list them, see `%(prog)s call --help` and `%(prog)s commands "
        "--help`.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--worker-id", default="", metavar="ID", help="the worker's name in logs and replies"
    )
    parser.add_argument(
        "--adapter",
        default="snakepit_bridge:BuiltinAdapter",
        metavar="MODULE:CLASS",
        help="a subclass of snakepit_bridge.Adapter (default: the built-in commands)",
    )
    parser.add_argument(
        "--init-from-stdin",
        action="store_true",
        help="first read the keyword arguments of the class from stdin: a length of 4 bytes, "
        'big-endian, then {"init": {...}} in extended JSON',
    )
    add_import_path(parser)
    parser.add_argument(
        "--listen",
        default="tcp:127.0.0.1:0",
        metavar="ADDRESS",
        help="unix:/path or tcp:127.0.0.1:port; port 0 means any free port, 50051-50150 the first "
        "free port of that range (default: %(default)s)",
    )
    parser.add_argument(
        "--stdio",
        action="store_true",
        help="serve over stdin and stdout, without gRPC, instead of --listen",
    )
    parser.add_argument(
        "--server",
        choices=["native", "grpcio"],
        help="the server (default: native, or grpcio if the native server does not load)",
    )
    parser.add_argument(
        "--max-concurrency",
        type=_positive,
        default=1,
        metavar="N",
        help="how many commands may run at once (default: %(default)s)",
    )
    parser.add_argument(
        "--max-message-size",
        type=_positive,
        default=16 * 1024 * 1024,
        metavar="BYTES",
        help="the largest message to receive or send (default: 16 MiB)",
    )
    parser.add_argument(
        "--max-sessions",
        type=_positive,
        default=10_000,
        metavar="N",
        help="how many sessions to keep, the most recently used (default: %(default)s)",
    )
    parser.add_argument(
        "--session-ttl",
        type=_ttl,
        default=3600.0,
        metavar="SECONDS",
        help="how long to keep a session that no call uses, or inf (default: 3600)",
    )
    parser.add_argument(
        "--unencodable",
        choices=["error", "marker"],
        default="error",
        help="what to send in place of a value that cannot be sent (default: %(default)s)",
    )
    parser.add_argument(
        "--frames",
        choices=["lists", "arrow"],
        default="lists",
        help="send frames and tables as maps of lists or as Arrow tables (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level",
        choices=list(logs.LEVELS),
        default="info",
        help="the lowest level of records to show; for installed libraries it is warning, unless "
        "their loggers have a level of their own (default: %(default)s)",
    )
    parser.add_argument(
        "--shutdown-timeout",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long running calls may take to finish after SIGTERM (default: 5)",
    )
    parser.add_argument(
        "--kill-grace",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="how long cancelled calls may take to stop (default: 2)",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return value


def _ttl(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(
            f"expected a positive number of seconds or inf, got {text}"
        )
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, 0 or more, got {text}")
    return value
