"""The exceptions of two-way calls, in which a command asks tools and reads input streams."""

from __future__ import annotations


class ToolError(Exception):
    """A tool of the caller has failed, or could not be asked; a command may catch it.

    `code` says what has happened: the tool's own code, or "timeout", "unknown_tool", "exception"
    and others, which the guide "Tools" lists. `data` is any value that the tool has added.
    """

    def __init__(
        self, code: str, message: str = "", *, data: object = None, tool: str = ""
    ) -> None:
        super().__init__(*((code, message) if message else (code,)))
        self.code = code
        self.message = message or code
        self.data = data
        #: The name of the tool.
        self.tool = tool

    def __str__(self) -> str:
        text = self.code if self.message == self.code else f"{self.code}: {self.message}"
        return f"the tool {self.tool!r} failed: {text}" if self.tool else text


class InputError(Exception):
    """What produces the items of an input stream has failed, in Elixir; a command may clean up.

    `type` names the exception there, if it was one.
    """

    def __init__(self, message: str, *, type: str = "") -> None:  # noqa: A002
        super().__init__(message)
        self.message = message
        self.type = type

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.type else self.message


class CallCancelledError(BaseException):
    """The call was cancelled while its command waited for a tool or for an item.

    As `asyncio.CancelledError`, which an `async` command gets instead, it is not an `Exception`: a
    command that handles those ends nevertheless.
    """

    def __init__(self) -> None:
        super().__init__("the call was cancelled")
