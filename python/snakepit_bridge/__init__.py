"""Commands in Python, called from Elixir.

from snakepit_bridge import Adapter, Context, command

class Greeter(Adapter):
    @command
    def greet(self, name: str, context: Context) -> str:
        return f"Hello {name}, this is {context.worker_id}."
"""

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
