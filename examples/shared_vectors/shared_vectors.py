"""Finds similar rows of a table that is larger than each worker should have for itself."""

from __future__ import annotations

import numpy as np

from snakepit_bridge import Adapter, command

#: So each row has 4,000 bytes.
COLUMNS = 1000


class Writer(Adapter):
    @command
    def write(self, path: str, rows: int) -> None:
        """Writes a table of random vectors in numpy's own format."""
        table = np.lib.format.open_memmap(path, "w+", np.float32, (rows, COLUMNS))
        random = np.random.default_rng(0)
        for start in range(0, rows, 1_000):
            part = table[start : start + 1_000]
            random.standard_normal(part.shape, np.float32, out=part)
        table.flush()


class Vectors(Adapter):
    """Keeps the table: mapped, which takes memory once for all workers, or read."""

    def __init__(self, path: str, *, mapped: bool = True) -> None:
        self.vectors = np.load(path, mmap_mode="r" if mapped else None)

    @command
    def nearest(self, row: int, top: int = 3) -> list[int]:
        """Returns the numbers of the rows that are most similar to one of them."""
        scores = self.vectors @ self.vectors[row]
        best: list[int] = np.argsort(scores)[::-1][:top].tolist()
        return best
