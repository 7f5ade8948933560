"""Commands in Python, called from Elixir.

from snakepit_bridge import Adapter, Context, command

class Greeter(Adapter):
    @command
    def greet(self, name: str, context: Context) -> str:
        return f"Hello {name}, this is {context.worker_id}."
"""

import sys

# What is above this line, and in it, older versions can read.
if sys.version_info < (3, 9):  # noqa: UP036
    _OLD = "Snakepit needs Python 3.9 or newer, and %s is Python %s" % (  # noqa: UP031
        sys.executable,
        sys.version.split()[0],
    )
    if "--worker-id" in sys.argv:
        sys.exit(_OLD + ": name another one with the option :python of the pool")
    if sys.argv[:1] == ["-m"]:
        sys.exit(_OLD)
    raise ImportError(_OLD)

from snakepit_bridge import _imports

if sys.argv[:1] == ["-m"] and "--worker-id" in sys.argv:
    _imports.put_users_last()

from snakepit_bridge._adapter import Adapter, command
from snakepit_bridge._arrow import Arrow, arrow
from snakepit_bridge._builtin import BuiltinAdapter
from snakepit_bridge._context import Context
from snakepit_bridge._encoders import register_encoder
from snakepit_bridge._failure import CommandError
from snakepit_bridge._logs import RequestIdFilter
from snakepit_bridge._sessions import Session
from snakepit_bridge._tensor import Tensor
from snakepit_bridge._version import __version__

__all__ = [
    "Adapter",
    "Arrow",
    "BuiltinAdapter",
    "CommandError",
    "Context",
    "RequestIdFilter",
    "Session",
    "Tensor",
    "__version__",
    "arrow",
    "command",
    "register_encoder",
]
