"""The options of a worker: its command line, as the servers read it."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Optional

from snakepit_bridge._process import logs
from snakepit_bridge._version import __version__


class Options(argparse.Namespace):
    """The options with which a worker was started. Times are in seconds."""

    worker_id: str
    adapter: str
    init_from_stdin: bool
    import_path: list[str]
    listen: str
    health_listen: Optional[str]
    tls_cert: Optional[str]
    tls_key: Optional[str]
    client_ca: Optional[str]
    token_file: Optional[str]
    insecure: bool
    max_queue: Optional[int]
    max_connection_age: Optional[float]
    drain_delay: float
    access_log: bool
    stdio: bool
    server: Optional[str]
    max_concurrency: int
    max_message_size: int
    max_sessions: int
    session_ttl: float
    unencodable: str
    frames: str
    log_level: str
    shutdown_timeout: float
    kill_grace: float


def parse(arguments: Sequence[str]) -> Options:
    """Parses the command line; exits if it is not valid, or asks for help."""
    return _parser().parse_args(arguments, Options())


def add_import_path(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--import-path`, the directories to import an adapter from."""
    parser.add_argument(
        "--import-path",
        action="append",
        default=[],
        metavar="DIR",
        help="a directory to import from, before all others; may be repeated",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m snakepit_bridge",
        description="Serves an adapter's commands over gRPC, or over stdin and stdout. To run one "
        "in this process or to list them, see `%(prog)s call --help` and `%(prog)s commands "
        "--help`.",
        # With a width, adding options does not import what asks for the terminal's.
        formatter_class=functools.partial(argparse.HelpFormatter, width=80),
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
        help="unix:/path or tcp:host:port; port 0 means any free port, 50051-50150 the first free "
        "port of that range (default: %(default)s)",
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
    _add_network(parser.add_argument_group("a server for other machines"))
    parser.formatter_class = argparse.HelpFormatter
    return parser


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tls-cert", metavar="FILE", help="serve over TLS with this certificate")
    group.add_argument("--tls-key", metavar="FILE", help="the certificate's private key")
    group.add_argument(
        "--client-ca",
        metavar="FILE",
        help="clients need a certificate that one of these authorities has signed",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="clients must send one of the tokens in this file, one in each line, as the metadata "
        "'authorization: Bearer TOKEN'; the file is read again when it changes",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="allow an address that other machines can connect to without TLS and without tokens",
    )
    group.add_argument(
        "--max-queue",
        type=_count,
        metavar="N",
        help="how many calls may wait beyond those that run; more are refused with "
        "RESOURCE_EXHAUSTED (default: 1024; no limit under a pool, which has its own)",
    )
    group.add_argument(
        "--health-listen",
        metavar="ADDRESS",
        help="answer grpc.health.v1, without TLS and tokens, at this address, too",
    )
    group.add_argument(
        "--drain-delay",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="how long to accept further clients after SIGTERM, while health checks already say "
        "NOT_SERVING (default: 0)",
    )
    group.add_argument(
        "--max-connection-age",
        type=_ttl,
        metavar="SECONDS",
        help="ask a client to connect again after this time (default: never)",
    )
    group.add_argument(
        "--access-log",
        action="store_true",
        help="log each call at its end: client, command, request id, outcome and time",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected an integer, 0 or more, got {text}")
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
