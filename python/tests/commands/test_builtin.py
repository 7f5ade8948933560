from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from client import Client, WorkerProcess, read

from snakepit_bridge import __version__


@pytest.fixture(scope="module")
def builtin() -> Iterator[Client]:
    with ExitStack() as stack:
        worker = WorkerProcess("--worker-id", "b1", "--listen", "tcp:127.0.0.1:0")
        stack.callback(worker.close)
        client = Client(worker.address())
        stack.callback(client.close)
        yield client


def test_ping(builtin: Client) -> None:
    result = builtin.result("ping")
    assert (result["status"], result["worker_id"]) == ("ok", "b1")


def test_echo(builtin: Client) -> None:
    args = {"a": 1, "self": "x", "context": None, "deep": {"list": [1.5, "ü"]}}
    assert builtin.result("echo", **args) == args
    assert builtin.execute("echo", raw=b"\xff").result == {"raw": b"\xff"}
    assert builtin.result("echo") == {}


@pytest.mark.parametrize(
    ("operation", "result"), [("add", 8), ("subtract", 4), ("multiply", 12), ("divide", 3)]
)
def test_compute(builtin: Client, operation: str, result: float) -> None:
    assert builtin.result("compute", operation=operation, a=6, b=2) == {"result": result}


def test_compute_fails_like_python(builtin: Client) -> None:
    assert builtin.error("compute", operation="divide", a=1, b=0).type == "ZeroDivisionError"
    detail = builtin.error("compute", operation="power", a=1, b=0)
    assert detail.message == (
        "expected operation to be one of add, subtract, multiply, divide, got 'power'"
    )


def test_info(builtin: Client) -> None:
    info = builtin.result("info")
    assert info["version"] == __version__
    assert info["worker_id"] == "b1"
    assert info["adapter"] == "snakepit_bridge:BuiltinAdapter"
    assert info["commands"] == [
        "compute",
        "echo",
        "info",
        "ping",
        "ping_stream",
    ]


def test_ping_stream(builtin: Client) -> None:
    chunks = builtin.chunks("ping_stream")
    assert [chunk.is_final for chunk in chunks] == [False, False, True]
    assert [read(chunk)["message"] for chunk in chunks] == ["ping 1", "ping 2", "ping 3"]
    assert [read(chunk)["index"] for chunk in chunks] == [0, 1, 2]
    assert builtin.chunks("ping_stream", count=0) == []


def test_a_cancellation_ends_the_interval_of_ping_stream(builtin: Client) -> None:
    stream = builtin.stream("ping_stream", {"interval": 3600}, call_id=5)
    assert not next(stream).is_final
    stream.cancel()
    assert builtin.health(await_call_id=5).running_call_ids == []


def test_get_info(builtin: Client) -> None:
    bare = builtin.info()
    assert (bare.worker_type, bare.version) == ("python", __version__)
    assert not bare.capabilities
    assert not bare.HasField("stats")
    assert bare.system_info["pid"].isdigit()
    full = builtin.info(include_capabilities=True, include_stats=True)
    assert full.capabilities["compute"].startswith("compute(operation: str, a: float, b: float)\n")
    assert full.capabilities["ping_stream"].startswith(
        "ping_stream(count: int = 3, interval: float = 0) -> stream\n"
    )
    assert full.stats.memory_usage_bytes > 1_000_000
    assert full.stats.cpu_usage_percent > 0
    assert full.stats.uptime_ms >= 0


def test_requests_and_errors_are_counted(builtin: Client) -> None:
    before = builtin.health()
    builtin.execute("ping")
    builtin.execute("no such")
    builtin.execute("compute", operation="divide", a=1, b=0)
    builtin.chunks("ping_stream")
    after = builtin.health()
    assert after.total_requests - before.total_requests == 4
    assert after.total_errors - before.total_errors == 2
    assert after.uptime_ms >= before.uptime_ms
    assert after.worker_id == "b1"
