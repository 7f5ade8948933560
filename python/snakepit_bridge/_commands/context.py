"""The context of a call: what a command can learn about the call that it serves."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Optional

from snakepit_bridge._commands.sessions import Session, SessionKey, Sessions
from snakepit_bridge._errors.exits import check_process
from snakepit_bridge._telemetry import events
from snakepit_bridge._telemetry.progress import ProgressReports, checked_progress
from snakepit_bridge._telemetry.reports import TAKES_PROGRESS, TAKES_TELEMETRY, Reports
from snakepit_bridge._two_way import tools

_log = logging.getLogger("snakepit_bridge")

#: The context of the call to which the running code belongs.
running: contextvars.ContextVar[Optional[Context]] = contextvars.ContextVar("running", default=None)

_request_id_in_rust: Callable[[], str] = str

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


def running_request_id() -> str:
    """The request id of the call to which the running code belongs; "" outside a call."""
    context = running.get()
    return _request_id_in_rust() if context is None else context.request_id


def ask_rust_for_request_ids(ask: Callable[[], str]) -> None:
    """Sets the function that returns the id of the call that Rust runs in the calling thread.

    Rust creates a context only for commands that take one.
    """
    global _request_id_in_rust  # noqa: PLW0603 (there is one worker in a process)
    _request_id_in_rust = ask


class Context:
    """The call that a command serves. Safe to use from any thread.

    `request_id`, `session_id` (None without a session) and `worker_id` identify it.
    """

    def __init__(
        self,
        *,
        request_id: str = "",
        session_id: Optional[str] = None,
        session_generation: int = 0,
        client_id: int = 0,
        sessions: Optional[Sessions] = None,
        worker_id: str = "",
        deadline: Optional[float] = None,
        metadata: Optional[Callable[[], Mapping[str, str]]] = None,
        takes_events: int = 0,
        reports: Optional[Reports] = None,
        asks: Optional[tools.Asks] = None,
    ) -> None:
        self.request_id = request_id
        self.session_id = session_id
        self.worker_id = worker_id
        #: When the caller stops waiting, in seconds of `time.monotonic()`; None without a deadline.
        self.deadline = deadline
        self._metadata = metadata
        self._cancelled = False
        self._event: Optional[threading.Event] = None
        self._callbacks: Optional[list[Callable[[], object]]] = None
        self._lock = threading.Lock()
        self._session: Optional[Session] = None
        self._session_key = None if session_id is None else SessionKey(session_id, client_id)
        self._session_generation = session_generation
        self._sessions = sessions
        self._takes_events = takes_events
        self._reports = reports
        self._asks = asks
        #: The last progress that the command has reported, and what sends it.
        self._progress: Optional[tuple[float, str]] = None
        self._progress_reports: Optional[ProgressReports] = None
        if self._session_key is not None and sessions is not None:
            self._session = sessions.touch(self._session_key, self, session_generation)

    @classmethod
    def _of_native_call(
        cls,
        request_id: str,
        session: tuple[Optional[str], int, int],
        left: Optional[float],
        metadata: Mapping[str, str],
        client: tuple[int, Optional[Reports], Optional[tools.Asks]],
        *,
        sessions: Sessions,
        worker_id: str,
    ) -> Context:
        """The context of a call that the server in Rust has received."""
        return cls(
            request_id=request_id,
            session_id=session[0],
            client_id=session[1],
            session_generation=session[2],
            sessions=sessions,
            worker_id=worker_id,
            deadline=None if left is None else time.monotonic() + left,
            metadata=lambda: {"x-request-id": request_id, **metadata},
            takes_events=client[0],
            reports=client[1],
            asks=client[2],
        )

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled else "active"
        return f"<Context request_id={self.request_id!r} session_id={self.session_id!r} {state}>"

    @property
    def worker_slot(self) -> Optional[int]:
        """The worker's number in its pool, from 0 on; None for a worker without a pool.

        A worker that replaces another one has the same number.
        """
        slot = os.environ.get("SNAKEPIT_WORKER_SLOT", "")
        return int(slot) if slot.isdecimal() else None

    @property
    def cancelled(self) -> bool:
        """Whether the call was cancelled, has timed out, or its caller has disconnected."""
        return self._cancelled

    @property
    def metadata(self) -> Mapping[str, str]:
        """The text metadata that came with the call."""
        return _NO_METADATA if self._metadata is None else self._metadata()

    @property
    def session(self) -> Session:
        """The dict that the calls of the session share; it begins empty.

        Raises a `RuntimeError` if the call belongs to no session.
        """
        if self._session_key is None:
            raise RuntimeError(
                "this call belongs to no session: call it with execute_in_session or session_id"
            )
        with self._lock:
            if self._session is None:
                self._session = (
                    Session()
                    if self._sessions is None
                    else self._sessions.get(self._session_key, self, self._session_generation)
                )
            return self._session

    def remaining(self) -> Optional[float]:
        """Returns the seconds until the deadline, never below zero; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def wait_cancelled(self, timeout: Optional[float] = None) -> bool:
        """Sleeps until the call is cancelled, at most `timeout` seconds.

        Returns whether the call is cancelled. For functions and generators; an `async` command is
        cancelled like any asyncio task.
        """
        with self._lock:
            if self._cancelled:
                return True
            if self._event is None:
                self._event = threading.Event()
        return self._event.wait(timeout)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Calls `callback` as soon as the call is cancelled, or at once if it already is.

        The callback runs on the server's own thread, so it must not block.
        """
        with self._lock:
            if not self._cancelled:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback()

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools that the caller offers."""
        return () if self._asks is None else tuple(self._asks.tools)

    def call(
        self,
        tool: str,
        args: Optional[Mapping[str, Any]] = None,
        /,
        *,
        timeout: Optional[float] = None,
        **more: Any,
    ) -> Any:
        """Calls a tool of the caller, and returns what it has returned.

            row = context.call("lookup", id=7)

        The tool gets the arguments as one map; a dict takes those whose names are not identifiers.
        If it fails, if the caller offers no such tool, or if there is no answer within `timeout`
        seconds, a `ToolError` is raised. If the call is cancelled meanwhile, or its deadline
        passes, a `CallCancelledError` is raised, which is not an `Exception`. Arguments that cannot
        be sent raise a `TypeError`. Other threads run while this one waits. An `async` command uses
        `acall`.
        """
        return tools.call(self._asks, tool, tools.arguments(tool, args, more), timeout)

    async def acall(
        self,
        tool: str,
        args: Optional[Mapping[str, Any]] = None,
        /,
        *,
        timeout: Optional[float] = None,
        **more: Any,
    ) -> Any:
        """As `call`, for `async` commands, which may call several tools at once.

        user, orders = await asyncio.gather(
            context.acall("user", id=7), context.acall("orders", user=7)
        )
        """
        return await tools.acall(self._asks, tool, tools.arguments(tool, args, more), timeout)

    def progress(self, fraction: float, message: str = "") -> None:
        """Reports how far the call is: a fraction from 0 to 1, and what it is doing ("epoch 2").

        It reaches the `on_progress:` of the caller, at most ten times a second. Of reports in
        between only the last is sent, and the last one of the call arrives before its result.
        `mix snakepit.top` shows the progress of running calls. A message is cut after 1,000
        characters.
        """
        self._progress = reported = checked_progress(fraction, message)
        if self._reports is None or not self._takes_events & TAKES_PROGRESS:
            return
        check_process("context.progress")
        with self._lock:
            if self._progress_reports is None:
                self._progress_reports = ProgressReports(self._reports)
        self._progress_reports.add(*reported)

    def telemetry(
        self,
        name: str,
        measurements: Mapping[str, float],
        metadata: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Emits an event in Elixir, `[:snakepit, :python, :event]`, with the ids of the call.

            context.telemetry("load", {"rows": 3}, {"file": "x.csv"})

        The values of `measurements` are numbers, those of `metadata` any that a result may have;
        together they have at most 16 KiB, encoded. A worker sends at most 1,000 events a second.
        Further ones are dropped, and events whose client does not read; that is logged.
        """
        takes = self._takes_events & TAKES_TELEMETRY
        if takes:
            check_process("context.telemetry")
        events.send_telemetry(self._reports if takes else None, name, measurements, metadata or {})

    def _settle(self) -> None:
        """Waits until `session_ended` has run for the earlier generation of the session."""
        if self._session_key is not None and self._sessions is not None:
            self._sessions.settle(self._session_key)

    def _leave(self) -> None:
        """Releases the session when the call has ended, and sends the last progress."""
        if self._progress_reports is not None:
            self._progress_reports.end()
        if self._session_key is not None and self._sessions is not None:
            self._sessions.leave(self._session_key, self)

    def _cancel(self) -> None:
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, None
            if self._event is not None:
                self._event.set()
        for callback in callbacks or ():
            try:
                callback()
            except BaseException:
                _log.exception("on_cancel callback %r failed", callback)
