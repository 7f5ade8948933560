"""The sessions of a worker: a dict for each one, which its calls share."""

from __future__ import annotations

import functools
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

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

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        # A copy, and what is pickled, is a plain dict: it belongs to no session.
        return dict, (dict(self),)


class SessionKey(NamedTuple):
    """Identifies a session: clients with different numbers share none."""

    id: str
    client_id: int = 0


class _Entry:
    __slots__ = ("generation", "hook_ended", "key", "session", "users", "waiting")

    def __init__(self, key: SessionKey, generation: int) -> None:
        self.key = key
        self.generation = generation
        self.session = Session()
        self.users: dict[int, weakref.ref[object]] = {}
        self.hook_ended = threading.Event()
        #: Called when the hook has ended.
        self.waiting: list[Callable[[], object]] = []


class Sessions:
    """The sessions of a worker; the least recently used is removed first. Safe in any thread.

    A session that begins anew has a higher generation, and never sees the state of an earlier one.
    Generation 0, of clients that know no generations, matches every generation. Each client counts
    its own.

    `on_end` is called in the main thread for each session that has ended, when no call uses it any
    more and before a call of its next generation runs. It returns a future if it continues in
    another thread.
    """

    def __init__(
        self,
        max_sessions: int = 10_000,
        ttl: float = 3600.0,
        on_end: Optional[Callable[[str, Session], Optional[Future[None]]]] = None,
    ) -> None:
        self._max = max_sessions
        self._ttl = ttl
        self._entries: dict[SessionKey, _Entry] = {}
        #: The sessions that no call uses, with the time of their last use, in that order.
        self._idle: dict[SessionKey, float] = {}
        # The garbage collector may report the end of a user while this thread holds the lock.
        self._released: deque[tuple[_Entry, int, weakref.ref[object], float]] = deque()
        self._lock = threading.Lock()
        self._on_end = on_end
        #: Sessions that have ended: those that a call still uses, those whose hook has to run, and
        #: those whose hook runs.
        self._ended_in_use: dict[_Entry, None] = {}
        self._hooks_due: dict[_Entry, None] = {}
        self._hooks_running: dict[_Entry, None] = {}
        self._posted = False
        #: Run a function in the main thread, without waiting and with waiting for its end.
        self.post: Callable[[Callable[[], object]], object] = _call
        self.call: Callable[[Callable[[], None]], object] = _call

    @property
    def count(self) -> int:
        with self._lock:
            self._update()
            count = len(self._entries)
        self._post_hooks()
        return count

    def get(self, key: SessionKey, user: object, generation: int = 0) -> Session:
        """Returns the session, or a new one. It is kept at least for as long as `user` lives."""
        with self._lock:
            session = self._used(self._current(key, generation), key, user, generation)
        self._post_hooks()
        return session

    def touch(self, key: SessionKey, user: object, generation: int = 0) -> Optional[Session]:
        """Like `get`, if the session exists. Raises a `CallError` if the id is not valid."""
        check_id(key.id)
        session = None
        with self._lock:
            entry = self._current(key, generation)
            # With a hook the adapter may keep state of the session elsewhere, under its id.
            if entry is not None or self._on_end is not None:
                session = self._used(entry, key, user, generation)
        self._post_hooks()
        return session

    def leave(self, key: SessionKey, user: object) -> None:
        """Ends the use of the session by the call `user`, even if the object still lives."""
        if self._on_end is None:
            return
        with self._lock:
            for entry in [self._entries.get(key), *self._ended_in_use]:
                if entry is not None and entry.users.pop(id(user), None) is not None:
                    self._now_unused(entry, time.monotonic())
            self._update()
        self._post_hooks()

    def end(self, key: SessionKey, generation: int = 0) -> bool:
        """Ends this generation of a session, or an earlier one; returns whether there was one."""
        with self._lock:
            self._update()
            entry = self._entries.get(key)
            found = entry is not None and not (generation and generation < entry.generation)
            if found:
                self._end(key)
        self._post_hooks()
        return found

    def expire(self) -> None:
        """Runs the hook for expired sessions, even if no call arrives. Never returns."""
        while True:
            time.sleep(min(max(self._ttl / 4, 0.1), 60.0))
            with self._lock:
                self._update()
            self._post_hooks()

    def end_all(self) -> None:
        """Ends every session, the least recently used first. For the main thread, at the end."""
        with self._lock:
            self._update()
            for key in [*self._idle, *(self._entries.keys() - self._idle.keys())]:
                self._end(key)
            self._hooks_due.update(self._ended_in_use)
            self._ended_in_use.clear()
        self._run_hooks()
        while self._hooks_running:
            self._wait(None)

    def settle(self, key: SessionKey) -> None:
        """Waits until the hook has run for every earlier generation of the session."""
        if self._unsettled(key) is not None:
            self.call(lambda: self._run_hooks(key))
            self._wait(key)

    def when_settled(self, key: SessionKey, done: Callable[[], object]) -> bool:
        """Like `settle`, without waiting: if this returns true, ask again when `done` is called."""
        entry = self._unsettled(key)
        if entry is not None:
            with self._lock:
                waits = not entry.hook_ended.is_set()
                if waits:
                    entry.waiting.append(done)
            if not waits:
                done()
        return entry is not None

    def _unsettled(self, key: SessionKey) -> Optional[_Entry]:
        if not self._hooks_due and not self._hooks_running:
            return None
        with self._lock:
            entries = itertools.chain(self._hooks_running, self._hooks_due)
            return next((entry for entry in entries if entry.key == key), None)

    def _wait(self, key: Optional[SessionKey]) -> None:
        """Waits for the running hooks of all sessions, or of one."""
        with self._lock:
            entries = [entry for entry in self._hooks_running if key in (None, entry.key)]
        for entry in entries:
            entry.hook_ended.wait()

    def _post_hooks(self) -> None:
        if self._hooks_due and not self._posted:
            self._posted = True
            self.post(self._run_posted_hooks)

    def _run_posted_hooks(self) -> None:
        self._posted = False
        self._run_hooks()

    def _run_hooks(self, key: Optional[SessionKey] = None) -> None:
        """Runs the hooks that are due, in the order in which sessions ended, or those of one."""
        while True:
            with self._lock:
                self._update()
                which = (entry for entry in self._hooks_due if key in (None, entry.key))
                entry = next(which, None)
                if entry is None:
                    return
                del self._hooks_due[entry]
                self._hooks_running[entry] = None
            going_on = None
            try:
                if self._on_end is not None:
                    going_on = self._on_end(entry.key.id, entry.session)
            finally:
                if going_on is None:
                    self._hook_ended(entry)
            if going_on is not None:
                going_on.add_done_callback(functools.partial(self._hook_ended, entry))

    def _hook_ended(self, entry: _Entry, _future: object = None) -> None:
        with self._lock:
            self._hooks_running.pop(entry, None)
            entry.hook_ended.set()
        for done in entry.waiting:
            done()

    def _used(
        self, entry: Optional[_Entry], key: SessionKey, user: object, generation: int
    ) -> Session:
        if entry is None:
            entry = _Entry(key, generation)
            self._entries[key] = entry
        elif generation and generation < entry.generation:
            return Session()
        self._use(entry, user)
        self._update()
        return entry.session

    def _current(self, key: SessionKey, generation: int) -> Optional[_Entry]:
        self._update()
        entry = self._entries.get(key)
        if entry is not None and generation > entry.generation:
            self._end(key)
            return None
        return entry

    def _use(self, entry: _Entry, user: object) -> None:
        self._idle.pop(entry.key, None)
        user_id = id(user)
        if user_id in entry.users:
            return

        def released(reference: weakref.ref[object]) -> None:
            self._released.append((entry, user_id, reference, time.monotonic()))
            # No later call asks for an ended session and would notice that its last user has gone.
            if entry in self._ended_in_use and not self._posted:
                self._posted = True
                self.post(self._run_posted_hooks)

        entry.users[user_id] = weakref.ref(user, released)

    def _update(self) -> None:
        while self._released:
            entry, user_id, reference, at = self._released.popleft()
            if entry.users.get(user_id) is reference:
                del entry.users[user_id]
                self._now_unused(entry, at)
        oldest = time.monotonic() - self._ttl
        while self._idle:
            key, since = next(iter(self._idle.items()))
            if since > oldest and len(self._entries) <= self._max:
                return
            self._end(key)

    def _now_unused(self, entry: _Entry, at: float) -> None:
        """If no user is left: starts its idle time, or makes its hook due."""
        if entry.users:
            return
        if self._entries.get(entry.key) is entry:
            self._idle[entry.key] = at
        elif entry in self._ended_in_use:
            del self._ended_in_use[entry]
            self._hooks_due[entry] = None

    def _end(self, key: SessionKey) -> None:
        entry = self._entries.pop(key)
        self._idle.pop(key, None)
        if self._on_end is not None:
            (self._ended_in_use if entry.users else self._hooks_due)[entry] = None


def _call(function: Callable[[], object]) -> object:
    return function()


def check_id(session_id: str) -> None:
    size = len(session_id.encode(errors="surrogatepass"))
    if not 0 < size <= MAX_ID_BYTES or "\0" in session_id:
        raise CallError(
            "invalid_args",
            f"expected a session id of 1 to {MAX_ID_BYTES} bytes without NUL, got {size} bytes",
        )
