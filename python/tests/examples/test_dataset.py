"""The commands of the examples that need no packages."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

import pytest
from client import ROOT, Client, WorkerProcess, read

EXAMPLES = ROOT.parent / "examples" / "streaming" / "python"
#: The number of distinct texts that a column counts.
DISTINCT_CAP = 1000


@pytest.fixture(scope="module")
def datasets() -> Iterator[Client]:
    with ExitStack() as stack:
        options = ("--adapter", "dataset:Datasets", "--import-path", str(EXAMPLES))
        worker = WorkerProcess(*options, "--listen", "tcp:127.0.0.1:0")
        stack.callback(worker.close)
        client = Client(worker.address())
        stack.callback(client.close)
        yield client


def table(path: Path, rows: list[list[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_the_columns_of_a_dataset_are_summarized(datasets: Client, tmp_path: Path) -> None:
    numbers = [math.sin(n) * 1e6 + 1e9 for n in range(2500)]
    rows: list[list[Any]] = [["n", "word", "mixed", "void"]]
    rows += [
        [n, f"w{i % 7}", i if i < 2000 else "late", "NA" if i % 2 else ""]
        for i, n in enumerate(numbers)
    ]
    path = table(tmp_path / "data.csv", rows)
    chunks = datasets.chunks("process_large_dataset", path=path, chunk_rows=1000)
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
    datasets: Client, tmp_path: Path
) -> None:
    path = tmp_path / "quoted.csv"
    path.write_bytes(b'\xef\xbb\xbf"a b",c\r\n"1,5\r\nx",2\r\n\r\n"y",3\r\n')
    (final,) = datasets.chunks("process_large_dataset", path=str(path))
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
def test_a_file_that_is_not_a_dataset_is_explained(
    datasets: Client, tmp_path: Path, content: Optional[bytes], kind: str, message: str
) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    (only,) = datasets.chunks("process_large_dataset", path=str(path))
    assert only.error_detail.type == kind
    assert message in only.error_detail.message


def test_a_header_without_rows_is_an_empty_dataset(datasets: Client, tmp_path: Path) -> None:
    (final,) = datasets.chunks(
        "process_large_dataset", path=table(tmp_path / "header.csv", [["a", "b"]])
    )
    assert read(final)["rows"] == 0
    assert read(final)["columns"]["a"]["type"] == "text"
