"""The commands that the documentation of Snakepit's modules calls."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from snakepit_bridge import BuiltinAdapter, CommandError, Context, Input, arrow, command


class Documented(BuiltinAdapter):
    @command
    def greet(self, name: str, times: int = 1) -> str:
        """Greets somebody."""
        return " ".join([f"Hello {name}"] * times)

    @command
    def numbers(self, to: int) -> Generator[dict[str, int], None, dict[str, int]]:
        for number in range(to):
            yield {"number": number}
        return {"total": to}

    @command
    def train(self, rows: Input[dict[str, Any]]) -> dict[str, int]:
        return {"rows": sum(1 for _ in rows)}

    @command
    def chat(self, messages: Input[dict[str, str]]) -> Generator[str, None, None]:
        for message in messages:
            yield message["text"].upper()

    @command
    def remember(self, name: str, context: Context) -> None:
        context.session["name"] = name

    @command
    def recall(self, context: Context) -> Any:
        return context.session["name"]

    @command
    def store(self, name: str, content: bytes) -> dict[str, Any]:
        return {"name": name, "bytes": len(content)}

    @command
    def summarize(self, text: str) -> str:
        return text[:10]

    @command
    def sales(self, year: int) -> Any:
        return arrow(pd.DataFrame({"year": [year], "amount": [1.5]}))

    @command
    def total(self, sales: pa.Table) -> float:
        return sum(sales["amount"].to_pylist())

    @command
    def double(self, numbers: np.ndarray) -> Any:
        return 2 * numbers

    @command
    def sell(self, count: int) -> int:
        if count > 3:
            raise CommandError("out_of_stock", "only 3 are left", data={"left": 3})
        return count
