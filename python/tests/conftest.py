from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from client import ROOT, SUPPORT, WORKER_PYTHON, Client, Pipe, Stdio, Way, WorkerProcess
from hypothesis import settings

settings.register_profile("steady", database=None, deadline=None, derandomize=True)
settings.load_profile("steady")

# Compiling its modules takes most of the time in which a worker starts, and Python does it at each
# start where it must not write bytecode. Bytecode with the hash of its source is never used for
# another one.
_COMPILE = ("-m", "compileall", "-q", "--invalidation-mode", "checked-hash")
subprocess.run([WORKER_PYTHON, *_COMPILE, ROOT / "snakepit_bridge", SUPPORT], check=True)


class Start(Protocol):
    """Starts a worker: without `--listen` on a Unix socket, without `--adapter` with the probe."""

    def __call__(self, *options: str, token: str = ..., **environment: str) -> WorkerProcess: ...


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(request: pytest.FixtureRequest) -> str:
    """Runs each test that starts a worker on both servers."""
    name: str = request.param
    return name


def _starter(stack: ExitStack, server: str) -> Start:
    # Not pytest's own directory, because a socket's path is limited to about a hundred bytes.
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sp-"))
    numbers = itertools.count()

    def start(*options: str, **rest: str) -> WorkerProcess:
        defaults = {
            "--listen": f"unix:{directory}/{next(numbers)}.sock",
            "--adapter": "probe:Probe",
            "--import-path": str(SUPPORT),
            "--worker-id": "w1",
            "--server": server,
        }
        given = [part for pair in defaults.items() if pair[0] not in options for part in pair]
        worker = WorkerProcess(*options, *given, **rest)
        stack.callback(worker.close)
        return worker

    return start


@pytest.fixture
def start(server: str) -> Iterator[Start]:
    with ExitStack() as stack:
        yield _starter(stack, server)


@pytest.fixture
def connect(start: Start) -> Iterator[Callable[..., Client]]:
    """Starts a worker with these options and connects to it."""
    with ExitStack() as stack:

        def connect(*options: str) -> Client:
            client = Client(start(*options).address())
            stack.callback(client.close)
            return client

        yield connect


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[Client]:
    """A client of a worker that the tests of a module share."""
    with ExitStack() as stack:
        client = Client(_starter(stack, server)("--max-concurrency", "4").address())
        stack.callback(client.close)
        yield client


@pytest.fixture(scope="module", params=["native", "grpcio", "stdio"])
def any_server(request: pytest.FixtureRequest) -> str:
    """Runs each test that starts a worker on each of the three servers."""
    name: str = request.param
    return name


@pytest.fixture
def way(any_server: str) -> Iterator[Callable[..., Way]]:
    """Starts a worker with these options, on each of the three servers."""
    yield from ways(any_server)


@pytest.fixture(scope="module")
def shared_way(any_server: str) -> Iterator[Callable[..., Way]]:
    """The same for workers that the tests of a module share."""
    yield from ways(any_server)


def ways(server: str) -> Iterator[Callable[..., Way]]:
    with ExitStack() as stack:
        start_grpc = _starter(stack, server)
        errors = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "stderr"

        def start(*options: str) -> Way:
            if server == "stdio":
                worker = Stdio(*options, errors=errors)
                stack.callback(worker.close)
                return Way(worker)
            client = Client(start_grpc(*options).address())
            stack.callback(client.close)
            return Way(client)

        yield start


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[str], Pipe]]:
    with ExitStack() as stack:

        def pipe(name: str) -> Pipe:
            made = Pipe(tmp_path / name)
            stack.callback(made.close)
            return made

        yield pipe
