"""The context variables of calls: each has a copy of those that `__init__` and `start` have set."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, Optional

_base: Optional[contextvars.Context] = None
# The `decimal` context is one object that is changed in place: a copy of the variables shares it.
_decimal: Any = None


def set_base(context: contextvars.Context) -> None:
    """Has every later call start with these variables."""
    global _base, _decimal  # noqa: PLW0603 (there is one worker in a process)
    _base = context
    # By name, because `decimal` is not imported where nobody needs it.
    values = (value for variable, value in context.items() if variable.name == "decimal_context")
    _decimal = next(values, None)


def new() -> contextvars.Context:
    """The context of one call."""
    context = contextvars.copy_context() if _base is None else _base.copy()
    if _decimal is not None:
        context.run(set_decimal)
    return context


def maker() -> Callable[[], contextvars.Context]:
    """As `new`, and as cheap as can be, once `set_base` was called."""
    return new if _base is None or _decimal is not None else _base.copy


def set_decimal() -> None:
    """Gives the current context a `decimal` context of its own, where the base has one."""
    if _decimal is not None:
        import decimal

        decimal.setcontext(_decimal.copy())
