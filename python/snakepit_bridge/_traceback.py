"""What a raised exception tells about itself. None of it may fail, whatever the exception does."""

from __future__ import annotations

import linecache
import traceback
from types import TracebackType
from typing import Optional

from snakepit_bridge._invalid import qualified_name

#: File, line, function and source.
Frame = tuple[str, int, str, str]

#: Of a deep traceback so many frames are told, from both ends.
_MOST_FRAMES = 40
_LONGEST_SOURCE = 200

# The modules whose frames stand above a command's own.
_CALLERS = ("snakepit_bridge._execution", "snakepit_bridge._async", "snakepit_bridge._event_loop")


class Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
        self._traceback: Optional[TracebackType] = error.__traceback__
        while self._traceback is not None and _is_ours(self._traceback):
            self._traceback = self._traceback.tb_next

    def message(self) -> str:
        try:
            return str(self.error)
        except Exception:
            return f"<{qualified_name(type(self.error))}.__str__ failed>"

    def text(self) -> str:
        """As Python prints it."""
        try:
            lines = traceback.format_exception(type(self.error), self.error, self._traceback)
        except Exception:
            lines = traceback.format_tb(self._traceback)
        return "".join(lines)

    def frames(self) -> list[Frame]:
        steps = list(traceback.walk_tb(self._traceback))
        if len(steps) > _MOST_FRAMES:
            steps = steps[: _MOST_FRAMES // 4] + steps[-_MOST_FRAMES * 3 // 4 :]
        return [
            (
                frame.f_code.co_filename,
                line,
                frame.f_code.co_name,
                _source(frame.f_code.co_filename, line),
            )
            for frame, line in steps
        ]

    def notes(self) -> list[str]:
        notes = getattr(self.error, "__notes__", ())
        return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


def _is_ours(step: TracebackType) -> bool:
    return step.tb_frame.f_globals.get("__name__") in _CALLERS


def _source(file: str, line: int) -> str:
    return linecache.getline(file, line).strip()[:_LONGEST_SOURCE]
