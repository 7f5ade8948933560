"""What waits on an event loop for other threads, where asyncio may never have been imported."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, NoReturn, Optional

if TYPE_CHECKING:
    import asyncio


def running_loop() -> Optional[asyncio.AbstractEventLoop]:
    """The event loop that runs in this thread; None without one."""
    events = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()  # noqa: SLF001


def resume(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Ends the wait for a future; may be called from any thread."""
    if running_loop() is loop:
        _set(future)
    else:
        # A command's own loop may be closed, at any time: then nobody waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_set, future)


async def end_task() -> NoReturn:
    """Ends a task that waits for the caller of a call that is cancelled."""
    import asyncio

    # The event loop was told before to cancel the command's own task, which may be this one.
    await asyncio.sleep(0)
    # Another task must seem to be cancelled, too: for `asyncio.wait_for` and for task groups any
    # other exception would be a failure, and asyncio would log that of a task left behind.
    raise asyncio.CancelledError


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
