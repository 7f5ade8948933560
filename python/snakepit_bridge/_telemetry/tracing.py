"""Runs commands in the OpenTelemetry context that came with their call.

Spans of a command, and of the libraries that it uses, then hang under the span of the caller. The
package `opentelemetry-api` is used if it is installed.
"""

from __future__ import annotations

import contextvars
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Optional

#: The metadata that carries the context of a span.
TRACEPARENT = "traceparent"

_log = logging.getLogger("snakepit_bridge")


def attach(metadata: Callable[[], Mapping[str, str]]) -> None:
    """Makes the caller's span the current one, in the current context variables."""
    enter = _enter()
    if enter is not None:
        given = metadata()
        if TRACEPARENT in given:
            enter(given)


def attach_in(context: contextvars.Context, metadata: Mapping[str, str]) -> None:
    """Like `attach`, in the context variables of a call."""
    context.run(attach, lambda: metadata)


@functools.cache
def _enter() -> Optional[Callable[[Mapping[str, str]], object]]:
    try:
        from opentelemetry import context as api
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        return None
    extract: Any = TraceContextTextMapPropagator().extract

    def enter(metadata: Mapping[str, str]) -> None:
        try:
            api.attach(extract(dict(metadata)))
        except Exception:
            # No call fails for its trace.
            _log.warning("the trace context of a call could not be used", exc_info=True)

    return enter
