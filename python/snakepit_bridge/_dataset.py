"""Statistics of a CSV file's columns, in one pass."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any, Optional

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
#: Distinct texts are counted up to this many per column.
DISTINCT_CAP = 1000


class Column:
    """A column's running statistics. One text that is no number makes it a text column."""

    __slots__ = ("_distinct", "_m2", "_mean", "_numbers", "count", "maximum", "minimum", "missing")

    def __init__(self) -> None:
        self.count = 0
        self.missing = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self._numbers = True
        self._mean = 0.0
        self._m2 = 0.0
        self._distinct: set[str] = set()

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
        if len(self._distinct) < DISTINCT_CAP:
            self._distinct.add(text)

    def _add_number(self, number: float) -> None:
        # Welford's method: it stays exact where sums of squares lose every digit.
        delta = number - self._mean
        self._mean += delta / self.count
        self._m2 += delta * (number - self._mean)
        if number < self.minimum:
            self.minimum = number
        if number > self.maximum:
            self.maximum = number

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
            "distinct_capped": len(self._distinct) == DISTINCT_CAP,
        }


class Dataset:
    """A CSV file that is read row by row."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._total = os.path.getsize(path)
        self._bytes_read = 0
        self._file = open(path, "rb")
        self._rows = 0
        self._complete = False
        self._reader = csv.reader(self._lines())
        header = next(self._reader, None)
        if not header:
            self._file.close()
            raise ValueError(f"{path} is empty: a CSV file needs a header line")
        self._columns = {name: Column() for name in header}
        if len(self._columns) != len(header):
            self._file.close()
            raise ValueError(f"{path} has two columns of the same name: {', '.join(header)}")
