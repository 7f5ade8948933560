"""Adapters with hooks that write what happens to the file HOOK_LOG."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Generator
from typing import Any

from snakepit_bridge import Adapter, Context, Session, command

phase: contextvars.ContextVar[str] = contextvars.ContextVar("phase", default="none")


def note(text: str) -> None:
    with open(os.environ["HOOK_LOG"], "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def thread() -> str:
    main = threading.current_thread() is threading.main_thread()
    return "main" if main else threading.current_thread().name


class Commands(Adapter):
    @command
    def add(self, text: str, context: Context) -> dict[str, Any]:
        context.session.setdefault("texts", []).append(text)
        note(f"add {text}")
        return {"texts": context.session["texts"], "phase": phase.get()}

    @command
    async def add_async(self, text: str, context: Context) -> dict[str, Any]:
        context.session.setdefault("texts", []).append(text)
        note(f"add {text}")
        return {"texts": context.session["texts"], "phase": phase.get()}

    @command
    def add_stream(self, text: str, context: Context) -> Generator[dict[str, Any], None, None]:
        context.session.setdefault("texts", []).append(text)
        note(f"add {text}")
        yield {"texts": context.session["texts"]}

    @command
    def only_its_id(self, context: Context) -> str:
        note(f"only {context.session_id}")
        return str(context.session_id)

    @command
    def hold(self, until: str, context: Context) -> str:
        context.session["texts"] = ["held"]
        note("hold")
        while not os.path.exists(until):
            time.sleep(0.01)
        note("held")
        return "held"

    @command
    def ping(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "phase": phase.get()}

    @command
    async def ping_async(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "phase": phase.get()}


class Plain(Commands):
    def start(self) -> None:
        phase.set("started")
        note(f"start in {thread()}")

    def close(self) -> None:
        note(f"close in {thread()}")

    def session_ended(self, session_id: str, session: Session) -> None:
        note(f"ended {session_id} {session.get('texts')} in {thread()}")


class Async(Commands):
    async def start(self) -> None:
        await asyncio.sleep(0)
        phase.set("started")
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(self.forever())
        note(f"start in {thread()}")

    async def forever(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            note("task ended")

    async def close(self) -> None:
        await asyncio.sleep(0)
        note(f"close in {thread()}, same loop: {asyncio.get_running_loop() is self.loop}")

    async def session_ended(self, session_id: str, session: Session) -> None:
        await asyncio.sleep(0)
        note(f"ended {session_id} {session.get('texts')} in {thread()}")


class FailingStart(Commands):
    def start(self) -> None:
        raise OSError("the model is gone")


class FailingAsyncStart(Commands):
    async def start(self) -> None:
        await asyncio.sleep(0)
        raise OSError("the model is gone")


class Failing(Commands):
    def close(self) -> None:
        note("close")
        raise RuntimeError("close has failed")

    async def session_ended(self, session_id: str, _session: Session) -> None:
        note(f"ended {session_id}")
        if session_id == "exit":
            raise SystemExit(3)
        raise RuntimeError(f"{session_id} has failed")


class Waiting(Commands):
    async def session_ended(self, session_id: str, _session: Session) -> None:
        note(f"ended {session_id}")
        if session_id == "waits":
            await asyncio.sleep(3600)


class SlowClose(Commands):
    def close(self) -> None:
        note("close")
        time.sleep(3600)


class SlowAsyncClose(Commands):
    async def close(self) -> None:
        note("close")
        await asyncio.sleep(3600)


class NoSession(Commands):
    def session_ended(self, session_id: str) -> None:  # type: ignore[override]
        pass


class StartWithArguments(Commands):
    async def start(self, model: str) -> None:  # type: ignore[override]
        pass


class YieldingClose(Commands):
    def close(self) -> Generator[None, None, None]:  # type: ignore[override]
        yield


class Named(Commands):
    """A command may have the name of a hook."""

    @command
    def start(self, job: str) -> str:  # type: ignore[override]
        return f"started {job}"
