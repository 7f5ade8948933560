"""Indicators of a price series."""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator
from typing import Any, Optional

from snakepit_bridge import Adapter, command

#: The price of a day without trading.
MISSING = "."


class Indicators(Adapter):
    @command
    def indicators(
        self, path: str, rsi: int = 14, fast: int = 12, slow: int = 26, signal: int = 9
    ) -> Generator[dict[str, Any], None, None]:
        """Yields RSI and MACD for each day of a CSV file of dates and prices, while reading it."""
        strength = RSI(rsi)
        averages, line = (EMA(fast), EMA(slow)), EMA(signal)
        for date, price in _prices(path):
            macd = averages[0].add(price) - averages[1].add(price)
            yield {
                "date": date,
                "price": price,
                "rsi": strength.add(price),
                "macd": macd,
                "signal": line.add(macd),
            }


class EMA:
    """An exponential moving average."""

    def __init__(self, period: int) -> None:
        self._weight = 2 / (period + 1)
        self._value: Optional[float] = None

    def add(self, value: float) -> float:
        if self._value is None:
            self._value = value
        self._value += self._weight * (value - self._value)
        return self._value


class RSI:
    """Wilder's relative strength index: None until there have been `period` changes."""

    def __init__(self, period: int) -> None:
        self._period = period
        self._changes = 0
        self._gain = self._loss = 0.0
        self._last: Optional[float] = None

    def add(self, price: float) -> Optional[float]:
        if self._last is not None:
            self._add_change(price - self._last)
        self._last = price
        if self._changes < self._period:
            return None
        moved = self._gain + self._loss
        return 100 * self._gain / moved if moved else 50.0

    def _add_change(self, change: float) -> None:
        # The mean of the first changes, then a moving average.
        self._changes = min(self._changes + 1, self._period)
        self._gain += (max(change, 0.0) - self._gain) / self._changes
        self._loss += (max(-change, 0.0) - self._loss) / self._changes


def _prices(path: str) -> Iterator[tuple[str, float]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows, None)
        for date, price in rows:
            if price != MISSING:
                yield date, float(price)
