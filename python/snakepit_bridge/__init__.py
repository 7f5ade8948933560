"""Write commands in Python, and call them from Elixir::

    from snakepit_bridge import Adapter, Context, command

    class Greeter(Adapter):
        @command
        def greet(self, name: str, context: Context) -> str:
            return f"Hello {name}, this is {context.worker_id}."

`snakepit_bridge.testing` calls commands in a test's own process.
"""

import sys

# Older versions can parse everything down to this check.
if sys.version_info < (3, 9):  # noqa: UP036
    _OLD = "Snakepit needs Python 3.9 or newer, and %s is Python %s" % (  # noqa: UP031
        sys.executable,
        sys.version.split()[0],
    )
    if "--worker-id" in sys.argv:
        sys.exit(_OLD + ": set the pool's option :python to a newer one")
    if sys.argv[:1] == ["-m"]:
        sys.exit(_OLD)
    raise ImportError(_OLD)

from snakepit_bridge._process import imports

if sys.argv[:1] == ["-m"] and "--worker-id" in sys.argv:
    imports.put_users_last()

from snakepit_bridge._commands.adapter import Adapter, command
from snakepit_bridge._commands.builtin import BuiltinAdapter
from snakepit_bridge._commands.context import Context
from snakepit_bridge._commands.sessions import Session
from snakepit_bridge._errors.command_error import CommandError
from snakepit_bridge._errors.two_way import CallCancelledError, InputError, ToolError
from snakepit_bridge._interpreter.adapter import Interpreter
from snakepit_bridge._process.logs import RequestIdFilter
from snakepit_bridge._two_way.inputs import Input
from snakepit_bridge._types.arrow import Arrow, arrow
from snakepit_bridge._types.encoders import register_encoder
from snakepit_bridge._types.tensor import Tensor
from snakepit_bridge._version import __version__

__all__ = [
    "Adapter",
    "Arrow",
    "BuiltinAdapter",
    "CallCancelledError",
    "CommandError",
    "Context",
    "Input",
    "InputError",
    "Interpreter",
    "RequestIdFilter",
    "Session",
    "Tensor",
    "ToolError",
    "__version__",
    "arrow",
    "command",
    "register_encoder",
]

# Errors, tracebacks and pickles name the module of a class: use the one from which users import it.
for _class in (
    Adapter,
    Arrow,
    BuiltinAdapter,
    CallCancelledError,
    CommandError,
    Context,
    Input,
    InputError,
    Interpreter,
    RequestIdFilter,
    Session,
    Tensor,
    ToolError,
):
    _class.__module__ = __name__
