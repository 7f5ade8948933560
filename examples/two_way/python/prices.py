"""Learns from rows while they come."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

from snakepit_bridge import Adapter, Input, command

#: The price of a day without trading.
MISSING = "."
#: How many earlier prices predict the next one.
BEFORE = 3


class Prices(Adapter):
    @command
    def train(self, rows: Input[str], every: int) -> Generator[dict[str, Any], None, None]:
        """Predicts each price from those before it, by a linear model that each row improves."""
        weights = [0.0, *[0.0] * (BEFORE - 1), 1.0]
        before: list[float] = []
        count, errors = 0, 0.0
        for price in _prices(rows):
            if len(before) == BEFORE:
                features = [1.0, *before]
                error = sum(w * x for w, x in zip(weights, features)) - price
                size = 1 + sum(x * x for x in features)
                weights = [w - 0.05 * error * x / size for w, x in zip(weights, features)]
                count, errors = count + 1, errors + abs(error)
                if count % every == 0:
                    yield {"rows": count, "mean_error": 100 * errors / count}
            before = [*before[1 - BEFORE :], price]
        yield {"rows": count, "mean_error": 100 * errors / max(count, 1)}


def _prices(rows: Iterable[str]) -> Iterator[float]:
    """The prices in hundreds, from rows of a date and a price, of which the first is a header."""
    for number, row in enumerate(rows):
        price = row.rsplit(",", 1)[1]
        if number > 0 and price != MISSING:
            yield float(price) / 100
