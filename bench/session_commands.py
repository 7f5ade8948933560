"""The commands with which bench/sessions.exs counts."""

from __future__ import annotations

import os

from snakepit_bridge import Adapter, Context, command


class SessionCommands(Adapter):
    @command
    def tally(self, context: Context) -> dict[str, int]:
        context.session["count"] = context.session.get("count", 0) + 1
        return {"count": context.session["count"], "pid": os.getpid()}
