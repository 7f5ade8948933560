"""Commands that ask their callers' tools and read input streams."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import signal
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any, Optional

from probe import refused_in_fork, tell, told

from snakepit_bridge import Adapter, Context, Input, InputError, ToolError, command


@dataclasses.dataclass
class Row:
    n: int


def _described(error: ToolError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "data": error.data, "tool": error.tool}


async def anext_of(rows: Input[int]) -> int:
    return await rows.__anext__()


class TwoWay(Adapter):
    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    @command
    def plain(self, n: int) -> int:
        return n

    @command
    def use_in_fork(self, rows: Input[int], context: Context) -> int:
        """Returns how often a child in the worker could not reach the caller."""
        with rows:
            return refused_in_fork(lambda: context.call("square", x=1), lambda: next(rows))

    @command
    def tools(self, context: Context) -> list[str]:
        return list(context.tools)

    @command
    def ask(
        self, tool: str, args: dict[str, Any], context: Context, timeout: Optional[float] = None
    ) -> Any:
        try:
            return {"value": context.call(tool, args, timeout=timeout)}
        except ToolError as error:
            return _described(error)

    @command
    async def aask(
        self, tool: str, args: dict[str, Any], context: Context, timeout: Optional[float] = None
    ) -> Any:
        try:
            return {"value": await context.acall(tool, args, timeout=timeout)}
        except ToolError as error:
            return _described(error)

    @command
    def sum_of_squares(self, n: int, context: Context) -> int:
        return sum(context.call("square", x=x) for x in range(n))

    @command
    async def asum_of_squares(self, n: int, context: Context) -> int:
        return sum(await asyncio.gather(*(context.acall("square", x=x) for x in range(n))))

    @command
    def squares(self, n: int, context: Context) -> Generator[int, None, None]:
        for x in range(n):
            yield context.call("square", x=x)

    @command
    async def asquares(self, n: int, context: Context) -> AsyncGenerator[int, None]:
        for x in range(n):
            yield await context.acall("square", x=x)

    @command
    def blocks(self, pipe: str, context: Context) -> None:
        """Tells how it ended."""
        try:
            context.call("wait")
        except BaseException as error:
            tell(pipe, f"{type(error).__name__} {context.cancelled}")
            raise

    @command
    async def ablocks(self, pipe: str, context: Context) -> None:
        try:
            await context.acall("wait")
        except BaseException as error:
            tell(pipe, f"{type(error).__name__} {context.cancelled}")
            # The task is cancelled only once.
            await asyncio.sleep(0.01)
            tell(pipe, "cleaned up")
            raise

    @command
    async def ablocks_deeper(self, pipe: str, how: str, context: Context) -> None:
        """Waits in a task of its own, and asks again when that has ended."""
        try:
            if how == "wait_for":
                await asyncio.wait_for(context.acall("wait"), 1000)
            elif how == "gather":
                await asyncio.gather(context.acall("wait"), context.acall("wait"))
            elif how == "task":
                await asyncio.create_task(context.acall("wait"))
            else:
                await asyncio.shield(context.acall("wait"))
        except BaseException as error:
            tell(pipe, type(error).__name__)
            try:
                await context.acall("wait")
            except BaseException as again:
                tell(pipe, type(again).__name__)
            raise

    @command
    async def areads_deeper(self, rows: Input[int], pipe: str) -> None:
        try:
            await asyncio.wait_for(anext_of(rows), 1000)
        except BaseException as error:
            tell(pipe, type(error).__name__)
            raise

    @command
    def leaves_a_thread(
        self, ends: str, pipe: str, context: Context, rows: Optional[Input[int]] = None
    ) -> None:
        """Ends when it is told to; a thread of it waits, and tells twice why no longer."""

        def waits() -> None:
            for _ in range(2):
                try:
                    tell(pipe, context.call("wait") if rows is None else next(rows))
                except Exception as error:
                    tell(pipe, error)

        threading.Thread(target=waits, daemon=True).start()
        told(ends)

    @command
    async def aleaves_a_task(
        self, ends: str, pipe: str, context: Context, rows: Optional[Input[int]] = None
    ) -> None:
        async def waits() -> None:
            for _ in range(2):
                try:
                    wait = context.acall("wait") if rows is None else anext_of(rows)
                    tell(pipe, await wait)
                except Exception as error:
                    tell(pipe, error)

        task = asyncio.create_task(waits())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        await asyncio.to_thread(told, ends)

    @command
    def rings(self, context: Context, rows: Optional[Input[int]] = None) -> str:
        """Waits until the handler of a signal raises an exception."""

        def ring(*_: object) -> None:
            raise TimeoutError("it rang")

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            return str(context.call("wait") if rows is None else next(rows))
        except TimeoutError as error:
            return str(error)
        finally:
            signal.signal(signal.SIGALRM, before)

    @command
    def rings_while_it_asks(self, pipe: str, context: Context) -> str:
        """Asks with a large text; a signal's handler raises an exception meanwhile."""

        def ring(*_: object) -> None:
            raise TimeoutError("it rang")

        before = signal.signal(signal.SIGALRM, ring)
        try:
            return str(context.call("wait", text="x" * (1 << 20)))
        except TimeoutError as error:
            tell(pipe, error)
            return str(error)
        finally:
            signal.signal(signal.SIGALRM, before)

    @command
    async def calls_in_loop(self, context: Context) -> str:
        try:
            context.call("square", x=1)
        except RuntimeError as error:
            return str(error)
        return "it called"

    @command
    def asks_with_an_object(self, context: Context) -> Any:
        try:
            return context.call("lookup", it=object())
        except TypeError as error:
            return str(error)

    @command
    def asks_wrongly(self, context: Context) -> list[str]:
        """Returns how wrong arguments and timeouts are refused."""
        wrong: Any = [({"lookup", 5}, 1), ([1], 1), ({}, "x"), ({}, 0)]
        refusals = []
        for args, timeout in wrong:
            try:
                context.call("lookup", args, timeout=timeout)
            except (TypeError, ValueError) as error:
                refusals.append(str(error))
        return refusals

    @command
    async def aasks_with_an_object(self, context: Context) -> Any:
        try:
            return await context.acall("lookup", it=object())
        except TypeError as error:
            return str(error)

    @command
    def in_a_thread(self, context: Context) -> list[Any]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda x: context.call("square", x=x), range(8)))

    @command
    def in_a_loop(self, context: Context) -> Any:
        async def main() -> Any:
            return await context.acall("square", x=3)

        return asyncio.run(main())

    @command
    def total(self, rows: Input[int], add: int = 0) -> int:
        return sum(rows) + add

    @command
    def optional(self, rows: Optional[Input[int]] = None) -> int:
        return -1 if rows is None else sum(rows)

    @command
    async def atotal(self, rows: Input[int]) -> int:
        total = 0
        async for row in rows:
            total += row
        return total

    @command
    def kinds(self, items: Input[Any]) -> list[str]:
        return [f"{type(item).__name__} {item!r}" for item in items]

    @command
    def lengths(self, rows: Input[bytes]) -> list[int]:
        return [len(row) for row in rows]

    @command
    def rows(self, rows: Input[Row]) -> list[int]:
        return [row.n for row in rows]

    @command
    def skips(self, rows: Input[int]) -> list[Any]:
        found: list[Any] = []
        while True:
            try:
                found.append(next(rows))
            except StopIteration:
                return found
            except Exception as error:
                found.append(str(error).split(": ")[1])

    @command
    def zipped(self, a: Input[int], b: Input[str]) -> list[str]:
        return [f"{one}{other}" for one, other in zip(a, b)]

    @command
    def doubled(self, items: Input[int]) -> Generator[int, None, None]:
        for item in items:
            yield 2 * item

    @command
    async def adoubled(self, items: Input[int]) -> AsyncGenerator[int, None]:
        async for item in items:
            yield 2 * item

    @command
    def first(self, rows: Input[int], count: int) -> list[int]:
        return list(itertools.islice(rows, count))

    @command
    def header(self, rows: Input[str], context: Context) -> list[Any]:
        """Reads a line, closes the input, and goes on."""
        with rows:
            found = next(rows)
        return [found, list(rows), context.call("square", x=2)]

    @command
    def caught(self, rows: Input[int]) -> list[Any]:
        seen = []
        try:
            for row in rows:
                seen += [row]
        except InputError as error:
            return [seen, error.type, error.message]
        return [seen]

    @command
    def steps(self, rows: Input[int], pipe: str) -> int:
        """Reads an item each time that it is told to."""
        read = 0
        for _row in rows:
            read += 1
            if told(pipe) == "stop":
                break
        return read

    @command
    def reads_slowly(self, rows: Input[int], pipe: str) -> None:
        try:
            for _row in rows:
                pass
        except Exception as error:
            tell(pipe, f"caught {error!r}")
        finally:
            tell(pipe, "left")

    @command
    def reads_on(self, rows: Input[int], pipe: str, context: Context) -> None:
        """Reads an item, and another one once the call is cancelled."""
        try:
            tell(pipe, next(rows))
            context.wait_cancelled()
            tell(pipe, next(rows))
        except BaseException as error:
            tell(pipe, type(error).__name__)
            raise

    @command(batch=4)
    def together(self, texts: list[str], ns: list[int]) -> list[str]:
        return [f"{text}{n}" for text, n in zip(texts, ns)]

    @command
    def untyped(self, rows: Any) -> list[Any]:
        return list(rows)
