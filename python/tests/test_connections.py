"""What comes in at a worker's listener, before and beside its calls."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from collections.abc import Iterator
from typing import Protocol

import grpc
import pytest
from client import PATIENCE, Client, WorkerProcess

SECRET = "s3cret"
#: More than a worker keeps of connections that have not brought the secret.
MANY = 300
HEADERS, SETTINGS, PING, CONTINUATION = 1, 4, 6, 9
END_HEADERS, ACK = 4, 1


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
        head = struct.pack(">I", len(data))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
        self.socket.sendall(head + data)

    def rpc(self, secret: str) -> Raw:
        """Opens `Calls`, which stays open."""
        pairs = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/snakepit.SnakepitBridge/Calls",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
            "x-snakepit-secret": secret,
        }
        self.send(HEADERS, END_HEADERS, 1, b"".join(map(field, pairs, pairs.values())))
        return self

    def answers(self) -> bool:
        """Whether the connection lives: a ping comes back."""
        self.send(PING, data=b"pingping")
        return any(frame == (PING, ACK, b"pingping") for frame in self._frames())

    def ends(self) -> bool:
        """Whether it is closed, in time."""
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


def field(name: str, value: str) -> bytes:
    """A header as HPACK has it that nobody is to remember."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


def over_tcp(start: Start) -> str:
    return start("--listen", "tcp:127.0.0.1:0", SNAKEPIT_SECRET=SECRET).address()


def test_headers_have_a_limit_that_metadata_keeps_to(client: Client) -> None:
    fits, too_large = (("x-large", "v" * size) for size in (60_000, 100_000))
    assert client.begin("ping", {}, metadata=(fits,)).result().success
    with pytest.raises(grpc.RpcError):
        client.begin("ping", {}, metadata=(too_large,)).result()
    assert client.begin("ping", {}).result().success


@pytest.mark.parametrize("size", [1000, 16_000, 1_000_000])
def test_headers_without_an_end_end_their_connection(start: Start, server: str, size: int) -> None:
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
        # What the socket takes is sent as well.
        assert sent < 4 * 1024 * 1024
    with contextlib.closing(Client(address)) as other:
        assert other.begin("ping", {}).result().success


def test_a_connection_that_finds_no_file_is_accepted_when_there_is_one(
    start: Start, server: str
) -> None:
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
        # As many as there are gaps below the limit, and then some.
        clients = [stack.enter_context(contextlib.closing(Client(address))) for _ in range(40)]
        calls = [client.begin("ping", {}) for client in clients]
        worker.expect("cannot accept a connection")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert all(call.result().success for call in calls)


def test_a_connection_without_the_secret_does_not_stay(start: Start, server: str) -> None:
    address = over_tcp(start)
    with contextlib.ExitStack() as stack:

        def raw() -> Raw:
            return stack.enter_context(contextlib.closing(Raw(address)))

        trusted = raw().begin().rpc(SECRET)
        assert trusted.answers()
        strangers = [raw()]
        # grpcio's own server does not tell such connections from others.
        if server == "native":
            strangers += [raw().begin(), raw().begin().rpc("wrong")]
        assert all(stranger.ends() for stranger in strangers)
        assert trusted.answers()


def test_there_are_only_so_many_connections_without_the_secret(start: Start, server: str) -> None:
    if server != "native":
        pytest.skip("grpcio's own server has no such limit")
    address = over_tcp(start)
    with contextlib.ExitStack() as stack:

        def raw() -> Raw:
            return stack.enter_context(contextlib.closing(Raw(address)))

        trusted = raw().begin().rpc(SECRET)
        assert trusted.answers()
        strangers = [raw().begin() for _ in range(MANY)]
        late = raw().begin().rpc(SECRET)
        assert late.answers()
        assert strangers[-1].answers()
        assert strangers[0].ends()
        assert trusted.answers()
