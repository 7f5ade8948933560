"""What the calls of a session share: a dict for each session, in this process."""

from __future__ import annotations

import functools
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

from snakepit_bridge._errors.call_error import CallError

if TYPE_CHECKING:
    from concurrent.futures import Future

MAX_ID_BYTES = 1024


class Session(dict[str, Any]):
    """The state of a session: a dict that its calls share.

    Calls of one session may run at the same time; guard compound changes with
    `with session.lock:`.
    """

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()


class _Entry:
    __slots__ = ("generation", "hook_ended", "id", "session", "users", "waiting")

    def __init__(self, session_id: str, generation: int) -> None:
        self.id = session_id
        self.generation = generation
        self.session = Session()
        self.users: dict[int, weakref.ref[object]] = {}
        self.hook_ended = threading.Event()
        #: To be called then.
        self.waiting: list[Callable[[], object]] = []


class Sessions:
    """The sessions of a worker, the least recently used out first. Safe to use from any thread.

    A session that begins anew has a higher generation than before: what an earlier life has left is
    never found again. Generation 0, of clients that know of none, fits any.

    `on_end` is told of each session that has ended, in the main thread, once no call uses it and
    before a call of its next life runs. It returns a future where it goes on in another thread.
    """

    def __init__(
        self,
        max_sessions: int = 10_000,
        ttl: float = 3600.0,
        on_end: Optional[Callable[[str, Session], Optional[Future[None]]]] = None,
    ) -> None:
        self._max = max_sessions
        self._ttl = ttl
        self._entries: dict[str, _Entry] = {}
        #: Those that no call uses, with the time since when, in that order.
        self._idle: dict[str, float] = {}
        # The garbage collector may tell of a user's end while this thread holds the lock.
        self._left: deque[tuple[_Entry, int, weakref.ref[object], float]] = deque()
        self._lock = threading.Lock()
        self._on_end = on_end
        #: Of those that have ended: the ones that a call still uses, the ones to tell of, and the
        #: ones of which the hook runs.
        self._lingering: dict[_Entry, None] = {}
        self._due: dict[_Entry, None] = {}
        self._ending: dict[_Entry, None] = {}
        self._posted = False
        #: Has the main thread call something, and waits for that or not.
        self.post: Callable[[Callable[[], object]], object] = _call
        self.call: Callable[[Callable[[], None]], object] = _call

    @property
    def count(self) -> int:
        with self._lock:
            self._tidy()
            count = len(self._entries)
        self._post_due()
        return count

    def get(self, session_id: str, user: object, generation: int = 0) -> Session:
        """The session, a new one if there is none. It stays for as long as `user` lives."""
        with self._lock:
            session = self._get(session_id, user, generation)
        self._post_due()
        return session

    def touch(self, session_id: str, user: object, generation: int = 0) -> None:
        """As `get`, of a session that there is. Raises a `CallError` if the id is none."""
        check_id(session_id)
        with self._lock:
            entry = self._find(session_id, generation)
            if entry is not None:
                self._use(entry, user)
            elif self._on_end is not None:
                # A session that keeps nothing here may do so elsewhere, under its id.
                self._get(session_id, user, generation)
        self._post_due()

    def leave(self, session_id: str, user: object) -> None:
        """The call of that user is over, whoever still holds the user."""
        if self._on_end is None:
            return
        with self._lock:
            for entry in [self._entries.get(session_id), *self._lingering]:
                if entry is not None and entry.users.pop(id(user), None) is not None:
                    self._left_by_all(entry, time.monotonic())
            self._tidy()
        self._post_due()

    def end(self, session_id: str, generation: int = 0) -> bool:
        """Forgets this life of a session, or an earlier one; tells whether there was one."""
        with self._lock:
            self._tidy()
            entry = self._entries.get(session_id)
            found = entry is not None and not (generation and generation < entry.generation)
            if found:
                self._forget(session_id)
        self._post_due()
        return found

    def expire(self) -> None:
        """Has the hook told of sessions whose time is over, whatever else comes. Never returns."""
        while True:
            time.sleep(min(max(self._ttl / 4, 0.1), 60.0))
            with self._lock:
                self._tidy()
            self._post_due()

    def end_all(self) -> None:
        """Ends every session, the least recently used first, for the main thread: no call runs."""
        with self._lock:
            self._tidy()
            for session_id in [*self._idle, *(self._entries.keys() - self._idle.keys())]:
                self._forget(session_id)
            self._due.update(self._lingering)
            self._lingering.clear()
        self._tell()
        while self._ending:
            self._wait(None)

    def settle(self, session_id: str) -> None:
        """Returns once no earlier life of the session is to be told of."""
        if self._unsettled(session_id) is not None:
            self.call(lambda: self._tell(session_id))
            self._wait(session_id)

    def when_settled(self, session_id: str, done: Callable[[], object]) -> bool:
        """Whether one is, where nobody may wait: then `done` will be called, and ask again."""
        entry = self._unsettled(session_id)
        if entry is not None:
            with self._lock:
                waits = not entry.hook_ended.is_set()
                if waits:
                    entry.waiting.append(done)
            if not waits:
                done()
        return entry is not None

    def _unsettled(self, session_id: str) -> Optional[_Entry]:
        if not self._due and not self._ending:
            return None
        with self._lock:
            entries = itertools.chain(self._ending, self._due)
            return next((entry for entry in entries if entry.id == session_id), None)

    def _wait(self, session_id: Optional[str]) -> None:
        """Waits for the hooks that run, or for those of one session alone."""
        with self._lock:
            entries = [entry for entry in self._ending if session_id in (None, entry.id)]
        for entry in entries:
            entry.hook_ended.wait()

    def _post_due(self) -> None:
        if self._due and not self._posted:
            self._posted = True
            self.post(self._tell_posted)

    def _tell_posted(self) -> None:
        self._posted = False
        self._tell()

    def _tell(self, session_id: Optional[str] = None) -> None:
        """Tells of those that are due, in the order of their ends, or of one session's alone."""
        while True:
            with self._lock:
                self._tidy()
                which = (entry for entry in self._due if session_id in (None, entry.id))
                entry = next(which, None)
                if entry is None:
                    return
                del self._due[entry]
                self._ending[entry] = None
            going_on = None
            try:
                if self._on_end is not None:
                    going_on = self._on_end(entry.id, entry.session)
            finally:
                if going_on is None:
                    self._hook_ended(entry)
            if going_on is not None:
                going_on.add_done_callback(functools.partial(self._hook_ended, entry))

    def _hook_ended(self, entry: _Entry, _future: object = None) -> None:
        with self._lock:
            self._ending.pop(entry, None)
            entry.hook_ended.set()
        for done in entry.waiting:
            done()

    def _get(self, session_id: str, user: object, generation: int) -> Session:
        entry = self._find(session_id, generation)
        if entry is None:
            entry = _Entry(session_id, generation)
            self._entries[session_id] = entry
        elif generation and generation < entry.generation:
            return Session()
        self._use(entry, user)
        self._tidy()
        return entry.session

    def _find(self, session_id: str, generation: int) -> Optional[_Entry]:
        self._tidy()
        entry = self._entries.get(session_id)
        if entry is not None and generation > entry.generation:
            self._forget(session_id)
            return None
        return entry

    def _use(self, entry: _Entry, user: object) -> None:
        self._idle.pop(entry.id, None)
        key = id(user)
        if key in entry.users:
            return

        def left(reference: weakref.ref[object]) -> None:
            self._left.append((entry, key, reference, time.monotonic()))
            # Of one that has ended nobody asks any more, who would hear that its last user is gone.
            if entry in self._lingering and not self._posted:
                self._posted = True
                self.post(self._tell_posted)

        entry.users[key] = weakref.ref(user, left)

    def _tidy(self) -> None:
        while self._left:
            entry, key, reference, at = self._left.popleft()
            if entry.users.get(key) is reference:
                del entry.users[key]
                self._left_by_all(entry, at)
        oldest = time.monotonic() - self._ttl
        while self._idle:
            session_id, since = next(iter(self._idle.items()))
            if since > oldest and len(self._entries) <= self._max:
                return
            self._forget(session_id)

    def _left_by_all(self, entry: _Entry, at: float) -> None:
        """If no user is left: counts how long it is idle, or has its end told."""
        if entry.users:
            return
        if self._entries.get(entry.id) is entry:
            self._idle[entry.id] = at
        elif entry in self._lingering:
            del self._lingering[entry]
            self._due[entry] = None

    def _forget(self, session_id: str) -> None:
        entry = self._entries.pop(session_id)
        self._idle.pop(session_id, None)
        if self._on_end is not None:
            (self._lingering if entry.users else self._due)[entry] = None


def _call(function: Callable[[], object]) -> object:
    return function()


def check_id(session_id: str) -> None:
    size = len(session_id.encode(errors="surrogatepass"))
    if not 0 < size <= MAX_ID_BYTES or "\0" in session_id:
        raise CallError(
            "invalid_args",
            f"expected a session id of 1 to {MAX_ID_BYTES} bytes without NUL, got {size} bytes",
        )
