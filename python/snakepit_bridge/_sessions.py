"""What the calls of a session share: a dict for each session, in this process."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from typing import Any, Optional

from snakepit_bridge._failure import CallError

MAX_ID_BYTES = 1024


class Session(dict[str, Any]):
    """A session's state. Calls of one session that run at once share it: `with session.lock:`."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()


class _Entry:
    __slots__ = ("generation", "id", "session", "users")

    def __init__(self, session_id: str, generation: int) -> None:
        self.id = session_id
        self.generation = generation
        self.session = Session()
        self.users: set[weakref.ref[object]] = set()


class Sessions:
    """The sessions of a worker, the least recently used out first. Safe to use from any thread.

    A session that begins anew has a higher generation than before: what an earlier life has left is
    never found again. Generation 0, of clients that know of none, fits any.
    """

    def __init__(self, max_sessions: int = 10_000, ttl: float = 3600.0) -> None:
        self._max = max_sessions
        self._ttl = ttl
        self._entries: dict[str, _Entry] = {}
        #: Those that no call uses, with the time since when, in that order.
        self._idle: dict[str, float] = {}
        # The garbage collector may tell of a user's end while this thread holds the lock.
        self._left: deque[tuple[_Entry, weakref.ref[object], float]] = deque()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        with self._lock:
            self._tidy()
            return len(self._entries)

    def get(self, session_id: str, user: object, generation: int = 0) -> Session:
        """The session, a new one if there is none. It stays for as long as `user` lives."""
        with self._lock:
            entry = self._find(session_id, generation)
            if entry is None:
                entry = _Entry(session_id, generation)
                self._entries[session_id] = entry
            elif generation and generation < entry.generation:
                return Session()
            self._use(entry, user)
            self._tidy()
            return entry.session

    def touch(self, session_id: str, user: object, generation: int = 0) -> None:
        """As `get`, of a session that there is. Raises a `CallError` if the id is none."""
        check_id(session_id)
        with self._lock:
            entry = self._find(session_id, generation)
            if entry is not None:
                self._use(entry, user)

    def end(self, session_id: str, generation: int = 0) -> bool:
        """Forgets this life of a session, or an earlier one; tells whether there was one."""
        with self._lock:
            self._tidy()
            entry = self._entries.get(session_id)
            if entry is None or (generation and generation < entry.generation):
                return False
            self._forget(session_id)
            return True

    def _find(self, session_id: str, generation: int) -> Optional[_Entry]:
        self._tidy()
        entry = self._entries.get(session_id)
        if entry is not None and generation > entry.generation:
            self._forget(session_id)
            return None
        return entry

    def _use(self, entry: _Entry, user: object) -> None:
        self._idle.pop(entry.id, None)
        left = self._left
        entry.users.add(
            weakref.ref(user, lambda reference: left.append((entry, reference, time.monotonic())))
        )

    def _tidy(self) -> None:
        while self._left:
            entry, reference, at = self._left.popleft()
            entry.users.discard(reference)
            if not entry.users and self._entries.get(entry.id) is entry:
                self._idle[entry.id] = at
        oldest = time.monotonic() - self._ttl
        while self._idle:
            session_id, since = next(iter(self._idle.items()))
            if since > oldest and len(self._entries) <= self._max:
                return
            self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        del self._entries[session_id]
        self._idle.pop(session_id, None)


def check_id(session_id: str) -> None:
    size = len(session_id.encode(errors="surrogatepass"))
    if not 0 < size <= MAX_ID_BYTES or "\0" in session_id:
        raise CallError(
            "invalid_args",
            f"a session's id has 1 to {MAX_ID_BYTES} bytes and no NUL; this one has {size} bytes",
        )
