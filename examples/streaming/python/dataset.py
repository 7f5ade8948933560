"""Statistics of a CSV file's columns, in one pass."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import time
from collections.abc import Generator, Iterator
from typing import Any, Optional

from snakepit_bridge import BuiltinAdapter, command

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
#: Distinct texts are counted up to this number per column.
DISTINCT_CAP = 1000


class Datasets(BuiltinAdapter):
    @command
    def process_large_dataset(
        self, path: str, chunk_rows: int = 5000
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Reads a CSV file with a header line in one pass, in constant memory.

        After every `chunk_rows` rows it yields the progress and each column's statistics so far.
        The final chunk has the statistics of the whole file and the time taken, in seconds.
        """
        if chunk_rows < 1:
            raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows!r}")
        started = time.perf_counter()
        with contextlib.closing(Dataset(path)) as dataset:
            while dataset.read(chunk_rows):
                yield dataset.summary()
            return {**dataset.summary(), "duration": time.perf_counter() - started}


class Column:
    """A column's running statistics. A single text that is not a number makes it a text column."""

    def __init__(self) -> None:
        self.count = 0
        self.missing = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self._numbers = True
        self._mean = 0.0
        self._m2 = 0.0
        self._distinct: set[str] = set()
        self._capped = False

    def add(self, text: str) -> None:
        if text.lower() in MISSING:
            self.missing += 1
            return
        self.count += 1
        if self._numbers:
            number = _number(text)
            if number is None:
                self._numbers = False
            else:
                self._add_number(number)
        if not self._capped and text not in self._distinct:
            if len(self._distinct) < DISTINCT_CAP:
                self._distinct.add(text)
            else:
                self._capped = True

    def _add_number(self, number: float) -> None:
        # Welford's method: it stays accurate where sums of squares lose every digit.
        delta = number - self._mean
        self._mean += delta / self.count
        self._m2 += delta * (number - self._mean)
        self.minimum = min(self.minimum, number)
        self.maximum = max(self.maximum, number)

    def summary(self) -> dict[str, Any]:
        shared = {"count": self.count, "missing": self.missing}
        if self._numbers and self.count:
            return {
                "type": "number",
                **shared,
                "min": self.minimum,
                "max": self.maximum,
                "mean": self._mean,
                "stddev": math.sqrt(self._m2 / (self.count - 1)) if self.count > 1 else 0.0,
            }
        return {
            "type": "text",
            **shared,
            "distinct": len(self._distinct),
            "distinct_capped": self._capped,
        }


class Dataset:
    """A CSV file that is read in batches of rows."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._bytes_total = os.path.getsize(path)
        self._bytes_read = 0
        self._rows = 0
        self._file = open(path, "rb")  # noqa: SIM115 (close() closes it)
        try:
            self._reader = csv.reader(self._lines(), strict=True)
            self._header = next(self._reader, [])
            self._check_header()
        except BaseException:
            self._file.close()
            raise
        self._columns = [Column() for _ in self._header]

    def close(self) -> None:
        self._file.close()

    def read(self, rows: int) -> bool:
        """Reads up to this many rows; returns False if the file ended before."""
        width = len(self._columns)
        adders = [column.add for column in self._columns]
        taken = 0
        for row in self._reader:
            if not row:
                continue
            if len(row) != width:
                raise ValueError(
                    f"{self._path}, line {self._reader.line_num}: {len(row)} fields, "
                    f"but the header has {width}"
                )
            for add, text in zip(adders, row):
                add(text)
            taken += 1
            if taken == rows:
                break
        self._rows += taken
        return taken == rows

    def summary(self) -> dict[str, Any]:
        """Returns the progress and the statistics of the columns so far."""
        return {
            "rows": self._rows,
            "bytes_read": self._bytes_read,
            "bytes_total": self._bytes_total,
            "progress": min(1.0, self._bytes_read / self._bytes_total),
            "columns": {
                name: column.summary() for name, column in zip(self._header, self._columns)
            },
        }

    def _lines(self) -> Iterator[str]:
        encoding = "utf-8-sig"
        for line in self._file:
            self._bytes_read += len(line)
            yield line.decode(encoding)
            encoding = "utf-8"

    def _check_header(self) -> None:
        if not self._header:
            raise ValueError(f"{self._path} is empty: a CSV file needs a header line")
        if len(set(self._header)) != len(self._header):
            raise ValueError(f"{self._path} has two columns of the same name: {self._header}")


def _number(text: str) -> Optional[float]:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None
