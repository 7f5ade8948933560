"""A worker process and a plain gRPC client of it."""

from __future__ import annotations

import itertools
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Union

import grpc

from snakepit_bridge._proto import snakepit_pb2 as pb
from snakepit_bridge._values.fields import decode_extended

ROOT = Path(__file__).parents[1]
SUPPORT = Path(__file__).parent / "support"
TOKEN = "ready-42"
#: Longer than any step takes on any machine, in seconds; no successful test waits for it.
PATIENCE = 60.0
# The Python that runs the workers, which may differ from that of the tests, whose packages a
# client needs.
WORKER_PYTHON = os.environ.get("SNAKEPIT_TEST_PYTHON", sys.executable)
_CODE = "import sysconfig; print(sysconfig.get_config_var('Py_GIL_DISABLED') == 1)"
FREE_THREADED = subprocess.check_output([WORKER_PYTHON, "-c", _CODE], text=True) == "True\n"


def times() -> Iterator[float]:
    """A short time in seconds, then longer ones, for events that must happen within it."""
    seconds = 0.1
    while seconds < PATIENCE:
        yield seconds
        seconds *= 4


class Pipe:
    """A named pipe on which this end never blocks."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = os.open(path, os.O_RDWR)
        self._seen = ""

    def send(self, text: str) -> None:
        os.write(self._fd, f"{text}\n".encode())

    def line(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while "\n" not in self._seen:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                raise TimeoutError(f"nothing was told to {self.path}")
            self._seen += os.read(self._fd, 4096).decode()
        line, _, self._seen = self._seen.partition("\n")
        return line

    def told(self) -> bool:
        """Whether there is output that `line` has not returned yet."""
        return bool(self._seen or select.select([self._fd], [], [], 0)[0])

    def close(self) -> None:
        os.close(self._fd)


def read(response: Any) -> dict[str, Any]:
    """The values of a chunk, each decoded as JSON."""
    assert not response.error, response
    fields = getattr(response, "chunk", None)
    return {name: json.loads(data) for name, data in fields.items()} if fields else {}


class Client:
    def __init__(
        self,
        address: str,
        secret: Optional[str] = None,
        tls: Optional[grpc.ChannelCredentials] = None,
    ) -> None:
        self.address = address
        target = address if address.startswith("unix:") else address.partition(":")[2]
        options = [
            ("grpc.default_authority", "localhost"),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.channel = (
            grpc.insecure_channel(target, options)
            if tls is None
            else grpc.secure_channel(target, tls, options)
        )
        self.metadata: tuple[tuple[str, str], ...] = ()
        if secret is not None:
            self.metadata = (("x-snakepit-secret", secret),)

        # grpcio cancels a call that nothing references.
        self._calls: list[Any] = []

    def close(self) -> None:
        self.channel.close()

    def execute(self, command: str, /, **args: Any) -> pb.ExecuteResponse:
        response: pb.ExecuteResponse = self.begin(command, args).result()
        return response

    def result(self, command: str, /, **args: Any) -> dict[str, Any]:
        """The fields of a result, each decoded as JSON."""
        response = self.execute(command, **args)
        assert response.success, response
        return {name: json.loads(data) for name, data in response.result.items()}

    def error(self, command: str, **args: Any) -> pb.ErrorDetail:
        response = self.execute(command, **args)
        assert not response.success
        assert response.error
        return response.error_detail

    def begin(self, command: str, args: dict[str, Any], **options: Any) -> Any:
        call = ("unary_unary", "Execute", pb.ExecuteResponse)
        return self._start(call, command, args, options)

    def stream(self, command: str, args: dict[str, Any], **options: Any) -> Any:
        call = ("unary_stream", "ExecuteStream", pb.StreamResponse)
        return self._start(call, command, args, options)

    def chunks(self, command: str, **args: Any) -> list[pb.StreamResponse]:
        return list(self.stream(command, args))

    def health(self, await_call_id: int = 0, timeout: float = PATIENCE) -> pb.HealthResponse:
        response: pb.HealthResponse = self.begin_health(await_call_id, timeout).result()
        return response

    def begin_health(self, await_call_id: int = 0, timeout: Optional[float] = PATIENCE) -> Any:
        call = self.channel.unary_unary(
            "/snakepit.SnakepitBridge/Health",
            pb.HealthRequest.SerializeToString,
            pb.HealthResponse.FromString,
        )
        request = pb.HealthRequest(await_call_id=await_call_id)
        return call.future(request, timeout=timeout, wait_for_ready=True, metadata=self.metadata)

    def info(self, **wanted: bool) -> pb.InfoResponse:
        call = self.channel.unary_unary(
            "/snakepit.SnakepitBridge/GetInfo",
            pb.InfoRequest.SerializeToString,
            pb.InfoResponse.FromString,
        )
        response: pb.InfoResponse = call(
            pb.InfoRequest(**wanted), timeout=PATIENCE, metadata=self.metadata
        )
        return response

    def wait_for_calls(self, count: int) -> None:
        """Waits until this many calls run or wait."""
        deadline = time.monotonic() + PATIENCE
        while self.health().in_flight != count:
            assert time.monotonic() < deadline, f"never {count} calls"

    def end_session(self, session_id: str, generation: int = 0, client_id: int = 0) -> bool:
        call = self.channel.unary_unary(
            "/snakepit.SnakepitBridge/EndSession",
            pb.EndSessionRequest.SerializeToString,
            pb.EndSessionResponse.FromString,
        )
        request = pb.EndSessionRequest(
            session_id=session_id, session_generation=generation, client_id=client_id
        )
        response: pb.EndSessionResponse = call(request, timeout=PATIENCE, metadata=self.metadata)
        return response.ended

    def _start(
        self,
        rpc: tuple[str, str, Any],
        command: str,
        args: dict[str, Any],
        options: dict[str, Any],
    ) -> Any:
        arity, method, response = rpc
        timeout = options.pop("timeout", PATIENCE)
        metadata = self.metadata + tuple(options.pop("metadata", ()))
        request: Any
        if "session_id" in options:
            method = method.replace("Execute", "ExecuteInSession")
            request = pb.SessionRequest(command=command, args=encoded(args), **options)
        else:
            request = pb.ExecuteRequest(command=command, args=encoded(args), **options)
        call = getattr(self.channel, arity)(
            f"/snakepit.SnakepitBridge/{method}",
            type(request).SerializeToString,
            response.FromString,
        )
        start = call.future if arity == "unary_unary" else call
        self._calls.append(start(request, timeout=timeout, wait_for_ready=True, metadata=metadata))
        return self._calls[-1]


def encoded(args: dict[str, Any]) -> dict[str, bytes]:
    return {
        name: value if isinstance(value, bytes) else json.dumps(value).encode()
        for name, value in args.items()
    }


class WorkerProcess:
    """`python -m snakepit_bridge` as Elixir starts it: with pipes, in the parent's group."""

    def __init__(self, *options: str, token: str = TOKEN, **environment: str) -> None:
        env = {
            **{name: value for name, value in os.environ.items() if "SNAKEPIT" not in name},
            "PYTHONPATH": str(ROOT),
            **({"SNAKEPIT_READY_TOKEN": token} if token else {}),
            **environment,
        }
        self.process = subprocess.Popen(
            [WORKER_PYTHON, "-u", "-W", "error", "-m", "snakepit_bridge", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            text=True,
            errors="replace",
        )
        self._token = token or "listening on"
        self._kept: list[str] = []
        self._lines: queue.SimpleQueue[Optional[str]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def address(self) -> str:
        """The address on which it listens, once it does."""
        for line in self.lines():
            if line.startswith(f"{self._token} "):
                return line[len(self._token) + 1 :]
        raise AssertionError(f"it ended with {self.process.wait(PATIENCE)}")

    def lines(self) -> Iterator[str]:
        """Each further line of its output, as it arrives, up to the end."""
        while self._kept:
            yield self._kept.pop(0)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            yield line

    def expect(self, text: str) -> str:
        return next(line for line in self.lines() if text in line)

    def ended(self) -> int:
        """Its exit code, once it and all processes that hold its output are gone."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive()
        return code

    def drain(self) -> None:
        """Sends SIGTERM, and returns once the worker has announced that it is draining."""
        self.process.send_signal(signal.SIGTERM)
        lines = list(itertools.takewhile(f"{self._token} draining".__ne__, self.lines()))
        self._kept = lines[:-1]

    def stop(self) -> int:
        """As its parent does."""
        if self._token == TOKEN:
            self.drain()
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            if stream is self.process.stdin:
                stream.close()
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


class Stdio:
    """A worker over stdin and stdout, and the other end of its pipes."""

    def __init__(self, *options: str, errors: Path) -> None:
        with errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                # Without site-packages: it needs only Python itself.
                [
                    WORKER_PYTHON,
                    "-S",
                    "-W",
                    "error",
                    "-m",
                    "snakepit_bridge",
                    "--stdio",
                    *_with_defaults(options),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._id = 0

    def drain(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.receive() == {"draining": True}

    def stop(self) -> int:
        self.drain()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def send(self, command: str, /, args: dict[str, Any], **fields: Any) -> int:
        self._id += 1
        request = {"id": self._id, "command": command, "args": args, "timestamp": 0, **fields}
        data = json.dumps(request).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(len(data).to_bytes(4, "big") + data)
        self.process.stdin.flush()
        return self._id

    def receive(self) -> dict[str, Any]:
        size = int.from_bytes(self._read(4), "big")
        response: dict[str, Any] = decode_extended(self._read(size))
        return response

    def _read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        data = b""
        while len(data) < size:
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                raise TimeoutError("the worker has sent nothing more")
            part = os.read(self.process.stdout.fileno(), size - len(data))
            if not part:
                raise EOFError("the worker has closed its output")
            data += part
        return data

    def ask(self, command: str, /, **args: Any) -> Any:
        sent = self.send(command, args)
        response = self.receive()
        assert response["id"] == sent
        assert response["success"], response
        return response["result"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def _with_defaults(options: tuple[str, ...]) -> list[str]:
    defaults = {"--adapter": "probe:Probe", "--import-path": str(SUPPORT)}
    given = [part for pair in defaults.items() if pair[0] not in options for part in pair]
    return [*options, *given]


class Way:
    """A worker on one of the servers, and its answers in the form that all three share."""

    def __init__(self, worker: Union[Client, Stdio]) -> None:
        self._worker = worker
        self.streams = isinstance(worker, Client)

    def call(self, command: str, /, **args: Any) -> tuple[Optional[dict[str, Any]], dict[str, Any]]:
        """The result, or None and the error's details."""
        if isinstance(self._worker, Stdio):
            sent = self._worker.send(command, args)
            response = self._worker.receive()
            assert response["id"] == sent
            error = response.get("error_detail") or {}
            return response.get("result"), {"message": response.get("error"), **error}
        answer = self._worker.execute(command, **args)
        if not answer.success:
            assert answer.error
            return None, _detail(answer.error_detail)
        return {name: _value(data) for name, data in answer.result.items()}, {}

    def in_session(self, session_id: str, command: str, /, **args: Any) -> bool:
        """Whether the call succeeded."""
        if isinstance(self._worker, Stdio):
            self._worker.send(command, args, session_id=session_id)
            return bool(self._worker.receive()["success"])
        return bool(self._worker.begin(command, args, session_id=session_id).result().success)

    def error(self, command: str, /, **args: Any) -> dict[str, Any]:
        result, error = self.call(command, **args)
        assert result is None, result
        return error

    def stream(self, command: str, /, **args: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The chunks, and the details of the error that ended them, if one did."""
        assert isinstance(self._worker, Client)
        chunks = self._worker.chunks(command, **args)
        values = [{k: _value(v) for k, v in chunk.chunk.items()} for chunk in chunks]
        if chunks and chunks[-1].error:
            return values[:-1], _detail(chunks[-1].error_detail)
        return values, {}


def _value(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data


def _detail(error: pb.ErrorDetail) -> dict[str, Any]:
    return {
        "reason": error.reason,
        "type": error.type,
        "message": error.message,
        "traceback": error.traceback,
        "frames": [{"file": frame.file, "line": frame.line} for frame in error.frames],
        "notes": list(error.notes),
        "cause": _detail(error.cause) if error.HasField("cause") else None,
        "code": error.code,
        "data": error.data,
    }
