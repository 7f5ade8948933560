"""A table of numbers, sent and received as Arrow and as a map of lists."""

from __future__ import annotations

import functools
from typing import Any

from snakepit_bridge import Adapter, arrow, command


@functools.cache
def table(megabytes: int) -> Any:
    import numpy as np
    import pyarrow as pa

    # Two columns with eight bytes per value.
    rows = megabytes * 1_000_000 // 16
    return pa.table({"n": np.arange(rows), "x": np.linspace(0, 1, rows)})


class TableCommands(Adapter):
    @command
    def get_arrow(self, megabytes: int) -> Any:
        return arrow(table(megabytes))

    @command
    def get_lists(self, megabytes: int) -> Any:
        return {"result": table(megabytes)}

    @command
    def rows_of_arrow(self, table: Any) -> int:
        return int(table.num_rows)

    @command
    def rows_of_lists(self, table: Any) -> int:
        return len(table["n"])
