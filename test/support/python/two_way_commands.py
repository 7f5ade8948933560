"""Commands that ask their callers' tools and read input streams, for the Elixir tests."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

from snakepit_bridge import BuiltinAdapter, Context, Input, InputError, ToolError, command


class TwoWay(BuiltinAdapter):
    @command
    def pid(self) -> int:
        return os.getpid()

    @command
    def ask(self, tool: str, args: dict[str, Any], context: Context) -> Any:
        try:
            return {"value": context.call(tool, args)}
        except ToolError as error:
            return {"code": error.code, "message": error.message, "data": error.data}

    @command
    async def ask_async(self, tool: str, args: dict[str, Any], context: Context) -> Any:
        try:
            return {"value": await context.acall(tool, args)}
        except ToolError as error:
            return {"code": error.code, "message": error.message, "data": error.data}

    @command
    def ask_uncaught(self, tool: str, context: Context) -> Any:
        return context.call(tool)

    @command
    def sum_of(self, tool: str, n: int, context: Context) -> int:
        return sum(context.call(tool, x=x) for x in range(n))

    @command
    async def sum_of_async(self, tool: str, n: int, context: Context) -> int:
        return sum(await asyncio.gather(*(context.acall(tool, x=x) for x in range(n))))

    @command
    def stream_of(self, tool: str, n: int, context: Context) -> Generator[Any, None, None]:
        for x in range(n):
            yield {"value": context.call(tool, x=x)}

    @command
    def remember(self, tool: str, context: Context) -> list[Any]:
        context.session.setdefault("seen", []).append(context.call(tool))
        return list(context.session["seen"])

    @command
    def names(self, context: Context) -> list[str]:
        return sorted(context.tools)

    @command
    def total(self, rows: Input[int]) -> int:
        return sum(rows)

    @command
    def lengths(self, rows: Input[str]) -> dict[str, int]:
        rows_read = characters = 0
        for row in rows:
            rows_read += 1
            characters += len(row)
        return {"rows": rows_read, "characters": characters}

    @command
    async def total_async(self, rows: Input[int]) -> int:
        total = 0
        async for row in rows:
            total += row
        return total

    @command
    def same(self, items: Input[Any]) -> list[Any]:
        return list(items)

    @command
    def pairs(self, a: Input[int], b: Input[str]) -> list[str]:
        return [f"{one}{other}" for one, other in zip(a, b)]

    @command
    def first(self, rows: Input[int], count: int) -> list[int]:
        return list(itertools.islice(rows, count))

    @command
    def first_and_on(self, rows: Input[int], tool: str, context: Context) -> Any:
        """Reads one row, and goes on."""
        with rows:
            row = next(rows)
        return [row, context.call(tool)]

    @command
    def one_by_one(self, rows: Input[int], tool: str, context: Context) -> int:
        """Asks after each row."""
        read = 0
        for _row in rows:
            read += 1
            context.call(tool, read=read)
        return read

    @command
    def cleans_up(self, rows: Input[int], tool: str, context: Context) -> None:
        read = []
        try:
            for row in rows:
                read += [row]
        except InputError as error:
            context.call(tool, read=read, type=error.type, message=error.message)
            raise

    @command
    def raises(self, rows: Input[int]) -> None:
        next(rows)
        raise ValueError("enough")

    @command
    def doubled(self, rows: Input[int], closed: str = "") -> Generator[int, None, None]:
        try:
            for row in rows:
                yield 2 * row
        finally:
            if closed:
                Path(closed).touch()

    @command
    async def doubled_async(self, rows: Input[int]) -> AsyncGenerator[int, None]:
        async for row in rows:
            yield 2 * row

    @command
    def upcase(self, messages: Input[dict[str, str]]) -> Generator[str, None, None]:
        count = 0
        for message in messages:
            count += 1
            yield message["text"].upper()
        yield f"{count} in all"
