"""Counts words. Elixir calls these commands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from snakepit_bridge import Adapter, command

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


class WordCount(Adapter):
    @command
    def count(self, text: str, top: int = 3) -> dict[str, Any]:
        """Counts the words of a text and returns the most frequent ones."""
        return _summary(Counter(_words(text)), top)

    @command
    def count_file(
        self, path: str, top: int = 3, every: int = 1000
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Counts the words of a file, and yields the result so far after each `every` lines."""
        counts: Counter[str] = Counter()
        lines = 0
        with Path(path).open(encoding="utf-8") as file:
            for lines, line in enumerate(file, start=1):
                counts.update(_words(line))
                if lines % every == 0:
                    yield {"lines": lines, **_summary(counts, top)}
        return {"lines": lines, **_summary(counts, top)}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _summary(counts: Counter[str], top: int) -> dict[str, Any]:
    return {"words": sum(counts.values()), "top": counts.most_common(top)}
