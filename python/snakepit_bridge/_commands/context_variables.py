"""The context variables of calls: a copy of those that `__init__` and `start` have set."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, Optional

_base: Optional[contextvars.Context] = None
# The `decimal` context is an object that is changed in place: copies of the variables share it.
_decimal: Any = None


def set_base(context: contextvars.Context) -> None:
    """Makes every later call start with these variables."""
    global _base, _decimal  # noqa: PLW0603 (there is one worker in a process)
    _base = context
    # By name, so that `decimal` is imported only where it is needed.
    values = (value for variable, value in context.items() if variable.name == "decimal_context")
    _decimal = next(values, None)


def new() -> contextvars.Context:
    """Returns the context variables of one call."""
    context = contextvars.copy_context() if _base is None else _base.copy()
    if _decimal is not None:
        context.run(set_decimal)
    return context


def maker() -> Callable[[], contextvars.Context]:
    """Returns a function like `new`, as cheap as possible. Call `set_base` first."""
    return new if _base is None or _decimal is not None else _base.copy


def set_decimal() -> None:
    """Gives the current context a `decimal` context of its own, if the base has one."""
    if _decimal is not None:
        import decimal

        decimal.setcontext(_decimal.copy())
