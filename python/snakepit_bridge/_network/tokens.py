"""The tokens that clients must send, from a file."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from typing import Optional

from snakepit_bridge._errors.exits import StartError

#: How often the file is looked at, in seconds.
INTERVAL = 1.0

# What a header may contain, without spaces.
_TOKEN = re.compile(r"[!-~]+")

_log = logging.getLogger("snakepit_bridge")


class TokenFile:
    """A file with a token in each line. Raises a `StartError` if it has none."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen = self._signature()
        try:
            self.tokens = self._read()
        except (OSError, ValueError) as error:
            raise StartError(f"--token-file {path}: {_why(error)}") from None

    def watch(self, changed: Callable[[list[str]], object]) -> None:
        """Calls `changed`, in a thread, with the tokens each time that they have changed.

        If the file cannot be read, the tokens stay as they are.
        """
        name = "snakepit-tokens"
        threading.Thread(target=self._watch, args=(changed,), name=name, daemon=True).start()

    def _watch(self, changed: Callable[[list[str]], object]) -> None:
        pause = threading.Event()
        while not pause.wait(INTERVAL):
            signature = self._signature()
            if signature == self._seen:
                continue
            self._seen = signature
            try:
                tokens = self._read()
            except (OSError, ValueError) as error:
                _log.warning(
                    "--token-file %s: %s; its former tokens stay valid", self._path, _why(error)
                )
                continue
            if tokens != self.tokens:
                self.tokens = tokens
                changed(tokens)
                _log.info("--token-file %s has changed: %d tokens", self._path, len(tokens))

    def _signature(self) -> Optional[tuple[int, int, int]]:
        # Kubernetes replaces a link to the file's directory: that is another file, too.
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _read(self) -> list[str]:
        with open(self._path, encoding="utf-8") as file:
            tokens = [line.strip() for line in file if line.strip()]
        if not tokens:
            raise ValueError("expected a token in each line, found none")
        for token in tokens:
            if not _TOKEN.fullmatch(token):
                raise ValueError("a token consists of ASCII letters, digits and punctuation")
        return tokens


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
