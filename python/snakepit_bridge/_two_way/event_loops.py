"""What waits on an event loop for other threads, where asyncio may never have been imported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Optional

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
    elif not loop.is_closed():
        loop.call_soon_threadsafe(_set, future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
