"""A plain grpcio client against a real server process, by the contract alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from snakepit_bridge._proto import snakepit_pb2 as pb

_PACKAGE = Path(__file__).resolve().parents[1]
_SERVICE = "/snakepit.SnakepitBridge/"


class Server:
    """One server process and a channel to it."""

    def __init__(self, *arguments: str) -> None:
        folder = tempfile.mkdtemp(prefix="snakepit-test-")
        self._socket = f"unix:{folder}/s"
        environment = {**os.environ, "PYTHONPATH": str(_PACKAGE), "SNAKEPIT_READY_TOKEN": "ready"}
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "snakepit_bridge", "--listen", self._socket, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"ready "):
                break
        options = [("grpc.default_authority", "localhost")]
        self._channel = grpc.insecure_channel(self._socket, options=options)

    def execute(self, command: str, /, **arguments: bytes) -> pb.ExecuteResponse:
        request = pb.ExecuteRequest(command=command, args=arguments)
        rpc = self._channel.unary_unary(
            _SERVICE + "Execute",
            request_serializer=pb.ExecuteRequest.SerializeToString,
            response_deserializer=pb.ExecuteResponse.FromString,
        )
        return rpc(request, timeout=10)

    def stream(self, command: str, /, **arguments: bytes) -> list[pb.StreamResponse]:
        request = pb.ExecuteRequest(command=command, args=arguments)
        rpc = self._channel.unary_stream(
            _SERVICE + "ExecuteStream",
            request_serializer=pb.ExecuteRequest.SerializeToString,
            response_deserializer=pb.StreamResponse.FromString,
        )
        return list(rpc(request, timeout=10))

    def health(self) -> pb.HealthResponse:
        rpc = self._channel.unary_unary(
            _SERVICE + "Health",
            request_serializer=pb.HealthRequest.SerializeToString,
            response_deserializer=pb.HealthResponse.FromString,
        )
        return rpc(pb.HealthRequest(), timeout=10)

    def close(self) -> None:
        self._channel.close()
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_a_call_is_answered(server: Server) -> None:
    response = server.execute("compute", operation=b"add", a=b"2", b=b"3")
    assert response.success
    assert dict(response.result) == {"result": b"5"}


def test_a_stream_ends_with_what_the_generator_returned(server: Server) -> None:
    chunks = server.stream("ping_stream", count=b"3")
    assert [chunk.chunk_index for chunk in chunks] == [0, 1, 2]
    assert [chunk.is_final for chunk in chunks] == [False, False, True]


def test_an_exception_is_a_reply_with_its_traceback(server: Server) -> None:
    response = server.execute("compute", operation=b"divide", a=b"1", b=b"0")
    assert not response.success
    assert response.error_detail.reason == "python_error"
    assert response.error_detail.type == "ZeroDivisionError"
    assert "Traceback" in response.error_detail.traceback


@pytest.mark.parametrize(
    ("command", "reason"), [("pong", "unknown_command"), ("compute", "invalid_args")]
)
def test_a_call_that_cannot_run_says_why(server: Server, command: str, reason: str) -> None:
    response = server.execute(command)
    assert not response.success
    assert response.error_detail.reason == reason
    assert response.error


def test_health_counts_what_was_asked(server: Server) -> None:
    server.execute("ping")
    server.execute("pong")
    health = server.health()
    assert health.healthy
    assert (health.total_requests, health.total_errors) == (2, 1)


def test_the_end_of_stdin_ends_the_worker(server: Server) -> None:
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(timeout=5) != 0


def test_sigterm_ends_the_worker_in_good_order(server: Server) -> None:
    server.process.terminate()
    assert server.process.wait(timeout=5) == 0
