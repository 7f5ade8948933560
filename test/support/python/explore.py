"""Commands beside an interpreter."""

from snakepit_bridge import Interpreter, command


class Explore(Interpreter):
    @command
    def greet(self, name: str) -> str:
        return f"Hello {name}"
