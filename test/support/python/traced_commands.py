"""Commands whose spans OpenTelemetry's SDK keeps in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from snakepit_bridge import Adapter, Context, command


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.002)


class Traced(Adapter):
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        # As any library that a user calls.
        self.tracer = provider.get_tracer("library")

    @command
    def work(self, name: str) -> None:
        with self.tracer.start_as_current_span(name):
            pass

    @command
    def work_in_thread(self, name: str) -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(copy_context().run, self.work, name).result()

    @command
    async def work_async(self, name: str) -> None:
        await asyncio.sleep(0)
        self.work(name)

    @command
    def work_in_parts(self, name: str) -> Generator[int, None, None]:
        for part in range(2):
            self.work(f"{name}{part}")
            yield part

    @command
    async def work_in_parts_async(self, name: str) -> AsyncGenerator[int, None]:
        for part in range(2):
            await asyncio.sleep(0)
            self.work(f"{name}{part}")
            yield part

    @command(batch=3, wait_ms=60_000)
    def work_in_batches(self, names: list[str], until: list[str]) -> list[int]:
        self.work(names[0])
        wait_for(until[0])
        return [len(names)] * len(names)

    @command(batch=3, wait_ms=60_000)
    async def work_in_batches_async(self, names: list[str], until: list[str]) -> list[int]:
        self.work(names[0])
        await asyncio.to_thread(wait_for, until[0])
        return [len(names)] * len(names)

    @command(batch=3)
    def work_for_callers(self, calls: list[dict[str, str]], contexts: list[Context]) -> list[int]:
        extract = TraceContextTextMapPropagator().extract
        callers = [trace.get_current_span(extract(each.metadata)) for each in contexts]
        links = [trace.Link(each.get_span_context()) for each in callers]
        with self.tracer.start_as_current_span("linked", links=links):
            return [len(calls)] * len(calls)

    @command
    def current(self) -> dict[str, object]:
        """The ids of the span in which the command runs."""
        span = trace.get_current_span().get_span_context()
        state = span.trace_state.to_header()
        return {"span": [f"{span.trace_id:032x}", f"{span.span_id:016x}"], "state": state}

    @command
    def spans(self) -> list[dict[str, object]]:
        """The spans that have ended since the last call, each with its parent."""
        spans = self.exporter.get_finished_spans()
        self.exporter.clear()
        return [
            {
                "name": span.name,
                "trace": f"{span.context.trace_id:032x}",
                "parent": span.parent and f"{span.parent.span_id:016x}",
                "links": [f"{link.context.span_id:016x}" for link in span.links],
            }
            for span in spans
        ]
