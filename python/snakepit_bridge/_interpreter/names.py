"""The names that the code of a session shares, and the thread in which it runs."""

from __future__ import annotations

import builtins
import linecache
import queue
import threading
from collections import deque
from typing import Any, Protocol

#: The characters of code that are kept for tracebacks, of all sessions together.
_MAX_SOURCES = 1_000_000

#: The files and their sizes, the oldest first.
_sources: deque[tuple[str, int]] = deque()
_sources_lock = threading.Lock()


def add_source(file: str, code: str) -> None:
    """Lets tracebacks show the lines of code, until there is much newer code."""
    with _sources_lock:
        # Without a time of modification the lines are not looked for in a file.
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
        # An entry costs more than its text.
        _sources.append((file, len(code) + 200))
        while sum(size for _, size in _sources) > _MAX_SOURCES:
            linecache.cache.pop(_sources.popleft()[0], None)


class Job(Protocol):
    """Code to run in the thread."""

    def run(self) -> None: ...


class Names:
    """The global names of code, and its thread: some objects may be used only in their own."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        thread = threading.Thread(target=self._serve, name="snakepit-eval", daemon=True)
        thread.start()

    def run(self, job: Job) -> None:
        """Runs code after that of earlier calls; does not wait for it."""
        self._jobs.put(job)

    def close(self) -> None:
        """Ends the thread after its last code."""
        self._jobs.put(_End())

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            if isinstance(job, _End):
                return
            job.run()
            # The thread must not keep what the code has used until its next job.
            del job


class _End:
    def run(self) -> None: ...
