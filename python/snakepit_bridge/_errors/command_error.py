"""The error that commands raise for their callers."""

from __future__ import annotations


class CommandError(Exception):
    """An error for callers to match, by its code and its data.

        raise CommandError("out_of_stock", "only 3 are left", data={"left": 3})

    In Elixir its reason is `:command_error`, and its details have `:code` and `:data`. It prints as
    `out_of_stock: only 3 are left`. `data` may be any value that a result can carry.
    """

    def __init__(self, code: str, message: str = "", *, data: object = None) -> None:
        super().__init__(*((code, message) if message else (code,)))
        self.code = code
        self.message = message or code
        self.data = data

    def __str__(self) -> str:
        return self.code if self.message == self.code else f"{self.code}: {self.message}"
