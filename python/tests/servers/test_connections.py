"""What arrives at a worker's listener before and beside its calls."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc
import pytest
from client import PATIENCE, Client, Pipe, WorkerProcess, encoded

from snakepit_bridge._proto import snakepit_pb2 as pb

SECRET = "s3cret"
#: More connections than a worker keeps without the secret.
MANY = 300
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
INITIAL_WINDOW_SIZE, LARGEST_WINDOW = 4, 2**31 - 1
END_HEADERS, END_STREAM, ACK = 4, 1, 1
#: The answer to a health check.
SERVING = b"\x08\x01"


class Start(Protocol):
    def __call__(self, *options: str, token: str = ..., **environment: str) -> WorkerProcess: ...


class Connect(Protocol):
    def __call__(self, *options: str) -> Client: ...


class Raw:
    """An HTTP/2 connection, frame by frame."""

    def __init__(self, address: str) -> None:
        kind, _, rest = address.partition(":")
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(rest)
        else:
            host, _, port = rest.rpartition(":")
            self.socket = socket.create_connection((host, int(port)))
        self.socket.settimeout(PATIENCE)
        self._seen = b""

    def begin(self) -> Raw:
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS)
        return self

    def send(self, kind: int, flags: int = 0, stream: int = 0, data: bytes = b"") -> None:
        self.socket.sendall(frame(kind, flags, stream, data))

    def rpc(self, secret: str, method: str = "Calls", stream: int = 1) -> Raw:
        """Opens an RPC whose request never arrives."""
        self.socket.sendall(rpc(secret, method, stream))
        return self

    def call(self, call_id: int, command: str, args: dict[str, Any]) -> None:
        """Sends a call on the stream of `Calls` that was opened first."""
        message = pb.CallFrame(call_id=call_id, command=command, args=encoded(args))
        data = message.SerializeToString()
        self.send(DATA, 0, 1, b"\0" + struct.pack(">I", len(data)) + data)

    def receives(self, size: int) -> bool:
        """Whether so many bytes of data arrive."""
        received = 0
        for kind, _, data in self._frames():
            received += len(data) if kind == DATA else 0
            if received >= size:
                return True
        return False

    def reset_calls(self, count: int) -> None:
        """Opens this many RPCs, and resets each at once, unless the server ends the connection."""
        with contextlib.suppress(OSError):
            for first in range(1, 2 * count, 200):
                streams = range(first, first + 200, 2)
                self.socket.sendall(b"".join(map(reset_call, streams)))

    def answers(self) -> bool:
        """Whether the connection is alive: a ping is answered."""
        self.send(PING, data=b"pingping")
        return any(got == (PING, ACK, b"pingping") for got in self._frames())

    def answered(self, count: int) -> bool:
        """Whether this many RPCs have ended."""
        ends = (1 for kind, flags, _ in self._frames() if kind == HEADERS and flags & END_STREAM)
        return sum(itertools.islice(ends, count)) == count

    def drain(self) -> None:
        """Reads until the connection is closed, at either end."""
        with contextlib.suppress(OSError):
            while self.socket.recv(65536):
                pass

    def ends(self) -> bool:
        """Whether the connection is closed in time."""
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(65536):
                pass
        return True

    def close(self) -> None:
        self.socket.close()

    def _frames(self) -> Iterator[tuple[int, int, bytes]]:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while got := self.socket.recv(65536):
                self._seen += got
                while len(self._seen) >= 9:
                    size = int.from_bytes(self._seen[:3], "big")
                    if len(self._seen) < 9 + size:
                        break
                    kind, flags = self._seen[3], self._seen[4]
                    data, self._seen = self._seen[9 : 9 + size], self._seen[9 + size :]
                    yield kind, flags, data


def frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    head = struct.pack(">I", len(data))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
    return head + data


def rpc(secret: str, method: str, stream: int) -> bytes:
    pairs = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method if method.startswith("/") else f"/snakepit.SnakepitBridge/{method}",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        "x-snakepit-secret": secret,
    }
    fields = b"".join(map(field, pairs, pairs.values()))
    return frame(HEADERS, END_HEADERS, stream, fields)


def check(client: Client) -> Any:
    call: Any = client.channel.unary_unary("/grpc.health.v1.Health/Check")
    return call(b"", timeout=PATIENCE)


def watch(stream: int, flags: int = END_STREAM) -> bytes:
    head = rpc("", "/grpc.health.v1.Health/Watch", stream)
    return head + frame(DATA, flags, stream, bytes(5))


def reset_call(stream: int) -> bytes:
    head, message = rpc("", "Execute", stream), b"\0\0\0\0\6\n\4ping"
    call = head + frame(DATA, END_STREAM, stream, message)
    return call + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def field(name: str, value: str) -> bytes:
    """An HPACK header that is not to be indexed."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


@contextlib.contextmanager
def connecting(address: str) -> Iterator[Callable[[], Raw]]:
    """Opens a connection with each call of the function, and closes them all at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Raw(address)))


def over_tcp(start: Start, *options: str) -> str:
    options = ("--listen", "tcp:127.0.0.1:0", *options)
    return start(*options, SNAKEPIT_SECRET=SECRET).address()


def test_headers_have_a_limit_within_which_metadata_fits(client: Client) -> None:
    fits, too_large = (("x-large", "v" * size) for size in (60_000, 100_000))
    assert client.begin("ping", {}, metadata=(fits,)).result().success
    with pytest.raises(grpc.RpcError):
        client.begin("ping", {}, metadata=(too_large,)).result()
    assert client.begin("ping", {}).result().success


@pytest.mark.parametrize("size", [1000, 16_000, 1_000_000])
def test_endless_headers_end_their_connection(start: Start, server: str, size: int) -> None:
    if server != "native":
        pytest.skip("grpcio's own server reads on, and keeps nothing")
    address = start().address()
    headers = field("x", "y") * (size // 5)
    with contextlib.closing(Raw(address).begin()) as raw:
        raw.send(HEADERS, 0, 1, b"")
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 * 1024 * 1024:
                raw.send(CONTINUATION, 0, 1, headers)
                sent += len(headers)
        # Whatever the socket accepts is sent as well.
        assert sent < 4 * 1024 * 1024
    with contextlib.closing(Client(address)) as other:
        assert other.begin("ping", {}).result().success


def test_a_connection_is_accepted_once_a_file_descriptor_is_free(start: Start, server: str) -> None:
    if server != "native":
        pytest.skip("grpcio's own server does not say that it waits")
    worker = start()
    address, pid = worker.address(), worker.process.pid
    with contextlib.closing(Client(address)) as client:
        assert client.begin("ping", {}).result().success
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    least = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (least, before[1]))
    with contextlib.ExitStack() as stack:
        # As many as there are gaps below the limit, and a few more.
        clients = [stack.enter_context(contextlib.closing(Client(address))) for _ in range(40)]
        calls = [client.begin("ping", {}) for client in clients]
        worker.expect("cannot accept a connection")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert all(call.result().success for call in calls)


def test_reset_calls_do_not_affect_other_clients(client: Client, server: str) -> None:
    del server
    with contextlib.closing(Raw(client.address).begin()) as raw:
        threading.Thread(target=raw.drain, daemon=True).start()
        attack = threading.Thread(target=raw.reset_calls, args=(10_000,))
        attack.start()
        while attack.is_alive():
            assert client.execute("ping").success
    assert client.execute("ping").success


def test_a_connection_without_the_secret_is_closed(start: Start, server: str) -> None:
    # The default limits, but grpcio's limit on idle connections would take a minute.
    adapter = {"native": "probe:Probe", "grpcio": "impatient:Impatient"}[server]
    address = over_tcp(start, "--adapter", adapter)
    with connecting(address) as raw:
        # grpcio has no `Calls` that would stay open.
        trusted = raw().begin().rpc(SECRET, {"native": "Calls", "grpcio": "Execute"}[server])
        assert trusted.answers()
        strangers = [raw(), raw().begin(), raw().begin().rpc("wrong")]
        assert all(stranger.ends() for stranger in strangers)
        assert trusted.answers()


def test_connections_without_the_secret_are_limited(start: Start, server: str) -> None:
    if server != "native":
        pytest.skip("grpcio's own server does not tell strangers from others: see the next test")
    address = over_tcp(start)
    with connecting(address) as raw:
        trusted = raw().begin().rpc(SECRET)
        assert trusted.answers()
        strangers = [raw().begin() for _ in range(MANY)]
        late = raw().begin().rpc(SECRET)
        assert late.answers()
        assert strangers[-1].answers()
        assert strangers[0].ends()
        assert trusted.answers()


@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_a_closed_connection_takes_its_health_checks_along(start: Start, server: str) -> None:
    del server
    address = over_tcp(start)
    checks = b"".join(watch(stream) for stream in (1, 3, 5))
    strangers: deque[Raw] = deque()
    with connecting(address) as raw:
        # The server closes the oldest connection for one too many.
        for _ in range(350):
            strangers.append(raw().begin())
            strangers[-1].socket.sendall(checks)
            if len(strangers) > 256:
                assert strangers[0].ends()
                strangers.popleft().close()
        with contextlib.closing(Client(address, SECRET)) as client:
            assert check(client) == SERVING


@pytest.mark.parametrize("server", ["grpcio"], indirect=True)
def test_grpcio_limits_connections_over_tcp(start: Start, server: str) -> None:
    del server
    address = over_tcp(start)
    with contextlib.closing(Client(address, SECRET)) as client:
        assert client.execute("ping").success
        with contextlib.ExitStack() as stack:
            strangers = [stack.enter_context(contextlib.closing(Raw(address))) for _ in range(MANY)]
            for stranger in strangers:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    stranger.begin()
            assert strangers[-1].ends()
            assert client.execute("ping").success
        # Closed connections make room.
        with contextlib.closing(Client(address, SECRET)) as other:
            assert other.execute("ping").success


@pytest.mark.parametrize("server", ["grpcio"], indirect=True)
def test_unfinished_requests_without_the_secret_hold_no_threads(start: Start, server: str) -> None:
    del server
    address = over_tcp(start)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(contextlib.closing(Client(address, SECRET)))
        # More at once than the server has threads.
        for _ in range(30):
            raw = stack.enter_context(contextlib.closing(Raw(address).begin()))
            for stream in range(1, 101, 2):
                raw.rpc("wrong", "Execute", stream)
            # A server that refuses a hundred at once refuses no call for their number.
            assert raw.answered(50)
        assert client.execute("ping").success


@pytest.mark.parametrize("server", ["grpcio"], indirect=True)
def test_calls_wait_beside_thousands_of_others_until_python_takes_them(
    client: Client, server: str, pipe: Callable[[str], Pipe]
) -> None:
    del server
    started, until = pipe("started"), pipe("until")
    held = client.begin("hold_the_gil", {"started": started.path, "until": until.path})
    started.line()
    with connecting(client.address) as raw:
        for _ in range(60):
            # grpcio refuses an unknown RPC without a thread.
            crowd = raw().begin()
            for stream in range(1, 121, 2):
                crowd.rpc("", "/unknown", stream)
            assert crowd.answers()
        call = client.begin("ping", {})
        assert crowd.answers()
        until.send("go on")
        assert call.result().success
    assert held.result().success


@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_health_checks_of_a_stranger_are_limited(start: Start, server: str) -> None:
    del server
    address = over_tcp(start)
    with connecting(address) as raw:
        strangers = [raw().begin() for _ in range(80)]
        for stranger in strangers:
            # One more than a connection may have open.
            stranger.socket.sendall(b"".join(watch(stream) for stream in range(1, 34, 2)))
        assert all(stranger.answered(1) for stranger in strangers)
        with contextlib.closing(Client(address, SECRET)) as client:
            assert check(client) == SERVING


@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_a_health_check_with_more_than_its_request_is_refused(start: Start, server: str) -> None:
    del server
    with connecting(over_tcp(start)) as raw:
        stranger = raw().begin()
        stranger.socket.sendall(watch(1, flags=0))
        stranger.send(DATA, 0, 1, bytes(10_000))
        assert stranger.answered(1)


@pytest.mark.parametrize("server", ["native"], indirect=True)
@pytest.mark.parametrize("concurrency", ["1", "2"])
@pytest.mark.parametrize("command", ["zeros", "zeros_async"])
def test_a_client_that_does_not_read_keeps_no_other_waiting(
    start: Start, server: str, concurrency: str, command: str, pipe: Callable[[str], Pipe]
) -> None:
    del server
    options = ("--listen", "tcp:127.0.0.1:0", "--max-concurrency", concurrency)
    address = start(*options, token="").address()
    # More than the sockets hold.
    size = 12 << 20
    with connecting(address) as raw, contextlib.closing(Client(address)) as client:
        silent = raw().begin().rpc("")
        silent.send(SETTINGS, data=struct.pack(">HI", INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
        silent.send(WINDOW_UPDATE, data=struct.pack(">I", LARGEST_WINDOW - 65535))
        for call_id in range(1, 4):
            started = pipe(f"started {call_id}")
            args = {"started": started.path, "size": size}
            silent.call(call_id, command, args)
            assert started.line() == "started"
            assert client.execute("ping").success
        assert silent.receives(3 * size)
