from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

import pytest
from client import Client, WorkerProcess

from snakepit_bridge import __version__
from snakepit_bridge._dataset import DISTINCT_CAP


@pytest.fixture(scope="module")
def builtin() -> Iterator[Client]:
    with ExitStack() as stack:
        worker = WorkerProcess("--worker-id", "b1", "--listen", "tcp:127.0.0.1:0")
        stack.callback(worker.close)
        client = Client(worker.address())
        stack.callback(client.close)
        yield client


def read(response: Any) -> dict[str, Any]:
    assert not response.error, response
    fields = getattr(response, "chunk", None)
    return {name: json.loads(data) for name, data in fields.items()} if fields else {}


def table(path: Path, rows: list[list[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


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


def test_compute_fails_as_python_does(builtin: Client) -> None:
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
        "process_large_dataset",
    ]


def test_ping_stream(builtin: Client) -> None:
    chunks = builtin.chunks("ping_stream")
    assert [chunk.is_final for chunk in chunks] == [False, False, True]
    assert [read(chunk)["message"] for chunk in chunks] == ["ping 1", "ping 2", "ping 3"]
    assert [read(chunk)["index"] for chunk in chunks] == [0, 1, 2]
    assert builtin.chunks("ping_stream", count=0) == []


def test_ping_stream_s_interval_ends_with_a_cancellation(builtin: Client) -> None:
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


def test_a_dataset_s_columns_are_described(builtin: Client, tmp_path: Path) -> None:
    numbers = [math.sin(n) * 1e6 + 1e9 for n in range(2500)]
    rows: list[list[Any]] = [["n", "word", "mixed", "void"]]
    rows += [
        [n, f"w{i % 7}", i if i < 2000 else "late", "NA" if i % 2 else ""]
        for i, n in enumerate(numbers)
    ]
    path = table(tmp_path / "data.csv", rows)
    chunks = builtin.chunks("process_large_dataset", path=path, chunk_rows=1000)
    assert [chunk.is_final for chunk in chunks] == [False, False, True]
    assert [read(chunk)["rows"] for chunk in chunks] == [1000, 2000, 2500]
    progress = [read(chunk)["progress"] for chunk in chunks]
    assert progress == sorted(progress)
    assert read(chunks[1])["columns"]["mixed"]["type"] == "number"

    final = read(chunks[-1])
    assert final["bytes_read"] == final["bytes_total"] == Path(path).stat().st_size
    assert final["progress"] == 1
    assert final["duration"] > 0
    n = final["columns"]["n"]
    assert (n["type"], n["count"], n["missing"]) == ("number", 2500, 0)
    assert (n["min"], n["max"]) == (min(numbers), max(numbers))
    assert n["mean"] == pytest.approx(statistics.fmean(numbers), rel=1e-12)
    assert n["stddev"] == pytest.approx(statistics.stdev(numbers), rel=1e-9)
    assert final["columns"]["word"] == {
        "type": "text",
        "count": 2500,
        "missing": 0,
        "distinct": 7,
        "distinct_capped": False,
    }
    assert final["columns"]["mixed"]["type"] == "text"
    assert final["columns"]["mixed"]["distinct"] == DISTINCT_CAP
    assert final["columns"]["mixed"]["distinct_capped"]
    assert (final["columns"]["void"]["count"], final["columns"]["void"]["missing"]) == (0, 2500)


def test_a_quoted_field_may_have_lines_and_a_file_a_byte_order_mark(
    builtin: Client, tmp_path: Path
) -> None:
    path = tmp_path / "quoted.csv"
    path.write_bytes(b'\xef\xbb\xbf"a b",c\r\n"1,5\r\nx",2\r\n\r\n"y",3\r\n')
    (final,) = builtin.chunks("process_large_dataset", path=str(path))
    assert read(final)["rows"] == 2
    assert list(read(final)["columns"]) == ["a b", "c"]
    assert read(final)["columns"]["c"]["mean"] == 2.5


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, "FileNotFoundError", "No such file or directory"),
        (b"", "ValueError", "is empty"),
        (b"a,a\n1,2\n", "ValueError", "two columns of the same name"),
        (b"a,b\n1,2\n3\n", "ValueError", "line 3: 1 fields, but the header has 2"),
        (b"a\n\xff\n", "UnicodeDecodeError", "utf-8"),
    ],
)
def test_a_file_that_is_no_dataset_is_explained(
    builtin: Client, tmp_path: Path, content: Optional[bytes], kind: str, message: str
) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    (only,) = builtin.chunks("process_large_dataset", path=str(path))
    assert only.error_detail.type == kind
    assert message in only.error_detail.message


def test_a_header_alone_is_a_dataset_without_rows(builtin: Client, tmp_path: Path) -> None:
    (final,) = builtin.chunks(
        "process_large_dataset", path=table(tmp_path / "header.csv", [["a", "b"]])
    )
    assert read(final)["rows"] == 0
    assert read(final)["columns"]["a"]["type"] == "text"
