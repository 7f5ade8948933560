"""Decodes extended JSON, which `extended_writer` encodes."""

from __future__ import annotations

import json
from typing import Any, Optional

from snakepit_bridge._types.invalid import MAX_DEPTH, InvalidValueError, too_deep
from snakepit_bridge._values.strict_json import exact_int, is_too_deep
from snakepit_bridge._values.tagged import ALIGNMENT, TAG, TAG_TEXT, TYPES_BY_NAME


def decode_extended(
    data: bytes, name: str = "message", problems: Optional[list[str]] = None
) -> Any:
    """Decodes a value from extended JSON.

    With `problems`, a table or a tensor that cannot be decoded is None, and the reason is appended.
    """
    end = data.find(0)
    text = data if end < 0 else data[:end]
    tail = memoryview(data)[end + ALIGNMENT - end % ALIGNMENT :] if end >= 0 else memoryview(b"")
    # A map with the key of tags has four brackets.
    if is_too_deep(text) and (TAG_TEXT.encode() not in text or is_too_deep(text, 4 * MAX_DEPTH)):
        raise too_deep(name)
    try:
        return _decode(text.decode(), tail, problems)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name} {error}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{name} is not valid extended JSON: {error}") from None


def _decode(text: str, tail: memoryview, problems: Optional[list[str]]) -> Any:
    if TAG_TEXT not in text:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            return json.loads(text, parse_int=exact_int)
    try:
        return json.loads(text, object_hook=_Tags(tail, problems).replace)
    except (InvalidValueError, json.JSONDecodeError):
        raise
    except ValueError:
        return json.loads(text, object_hook=_Tags(tail, problems).replace, parse_int=exact_int)


class _Tags:
    """Replaces objects with a tag by the values that they represent, in the order of the text."""

    def __init__(self, tail: memoryview, problems: Optional[list[str]]) -> None:
        self._tail = tail
        self._problems = problems
        self._from = 0

    def replace(self, value: dict[str, Any]) -> Any:
        if TAG not in value:
            return value
        try:
            (items,) = value.values()
            known = TYPES_BY_NAME.get(items[0])
            return _map(*items) if known is None else known.decode(items, self._cut)
        except InvalidValueError as error:
            if self._problems is None:
                raise
            self._problems.append(str(error))
            return None
        except (TypeError, ValueError, LookupError) as error:
            raise InvalidValueError(f"has an invalid tag: {error}") from None

    def _cut(self, offset: int, size: int) -> memoryview:
        end = offset + size
        if offset < self._from or size < 0 or end > len(self._tail):
            raise ValueError(f"the tail does not have {size} bytes at {offset}")
        self._from = end
        return self._tail[offset:end]


def _map(name: str, *items: Any) -> Any:
    """A map that itself has the key of tags."""
    if name != "map":
        raise ValueError(f"its name is {name!r}")
    (pairs,) = items
    return dict(pairs)
