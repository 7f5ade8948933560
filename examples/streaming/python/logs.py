"""Follows log files."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Any, TextIO

from dataset import Datasets

from snakepit_bridge import Context, command

#: How often to check a file for new text, in seconds.
INTERVAL = 0.1


class Logs(Datasets):
    @command
    def tail_and_analyze(
        self, path: str, patterns: dict[str, str], context: Context
    ) -> Generator[dict[str, Any], None, None]:
        """Yields each line of a growing file that matches a pattern, until it is cancelled."""
        searches = {name: re.compile(pattern) for name, pattern in patterns.items()}
        seen = dict.fromkeys(patterns, 0)
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(_follow(file, context), start=1):
                found = [name for name, search in searches.items() if search.search(line)]
                for name in found:
                    seen[name] += 1
                if found:
                    yield {"number": number, "line": line, "patterns": found, "seen": seen}


def _follow(file: TextIO, context: Context) -> Iterator[str]:
    line = ""
    while not context.cancelled:
        line += file.readline()
        if line.endswith("\n"):
            yield line[:-1]
            line = ""
        else:
            context.wait_cancelled(INTERVAL)
