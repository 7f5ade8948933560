"""Writes text word by word, with a word model that is made from a text when the worker starts."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any, Optional

from snakepit_bridge import Adapter, Context, command


class Writer(Adapter):
    """Counts which word follows each pair of words in the files (a Markov chain)."""

    def __init__(self, files: list[str]) -> None:
        self.following: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for file in files:
            paragraphs = Path(file).read_text(encoding="utf-8").split("\n\n")
            # Only sentences: no tables, code or headings.
            words = " ".join(each for each in paragraphs if each[:1].isalpha()).split()
            for first, second, third in zip(words, words[1:], words[2:]):
                self.following[first, second][third] += 1

    @command
    def write(
        self, context: Context, seed: int = 0, pause: float = 0.02, limit: Optional[int] = None
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Yields one word at a time, `pause` seconds apart, until it is cancelled."""
        chance = random.Random(seed)
        pairs = sorted(self.following)
        pair = chance.choice(pairs)
        count = 0
        while (limit is None or count < limit) and not context.wait_cancelled(pause):
            following = self.following.get(pair)
            if not following:
                pair = chance.choice(pairs)
                continue
            word = chance.choices(list(following), list(following.values()))[0]
            pair = (pair[1], word)
            count += 1
            yield {"token": word}
        return {"token": "", "count": count}
