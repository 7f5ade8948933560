"""Encoders: they return the value that is sent in place of a value of another type.

None, bool, int, float, str, list, tuple, dict and the classes in `_values/tagged.py` need none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Optional, TypeVar, Union, overload

from snakepit_bridge._types.arrays import array
from snakepit_bridge._types.frames import Columns, arrow_table, pandas_frame, polars_frame
from snakepit_bridge._types.invalid import InvalidValueError
from snakepit_bridge._types.known import Encoder, advice_for, encoder_by_shape, encoder_of
from snakepit_bridge._types.names import qualified_name, repr_of

_F = TypeVar("_F", bound=Encoder)

#: How often the result of an encoder may need an encoder again.
MAX_SUBSTITUTIONS = 16

#: The key of the map that replaces a value that cannot be sent, if the pool has that option.
UNENCODABLE = "$unencodable"

#: Of how many classes the encoders are remembered: a program may make classes without end.
_MAX_FOUND = 4096

_SCALARS = (str, bool, int, float, bytes)
_JSON_WORDS = {True: "true", False: "false", None: "null"}

_registered: dict[type, Encoder] = {}
_found: dict[type, Optional[Encoder]] = {}
_mark_unencodable = False
_frame_encoder: Optional[Encoder] = None

#: The encoders that convert frames to maps of lists.
_FRAME_ENCODERS = (arrow_table, pandas_frame, polars_frame)


@overload
def register_encoder(cls: type) -> Callable[[_F], _F]: ...


@overload
def register_encoder(cls: type, encoder: _F) -> _F: ...


def register_encoder(
    cls: type, encoder: Optional[Encoder] = None
) -> Union[Encoder, Callable[[_F], _F]]:
    """Registers an encoder for the values of a class and of its subclasses.

    `encoder` takes a value and returns the value to send in its place. Without `encoder` this is a
    decorator::

        @register_encoder(Point)
        def encode_point(point: Point) -> dict[str, float]:
            return {"x": point.x, "y": point.y}

    Encoders do not apply to None and to instances of bool, int, float, str, bytes, list, tuple and
    dict, nor of classes derived from these: they are sent as their base type.
    """

    def register(encoder: _F) -> _F:
        _registered[cls] = encoder
        _found.clear()
        return encoder

    return register if encoder is None else register(encoder)


def mark_unencodable(*, mark: bool) -> None:
    """Sets whether a marker map is sent in place of a value that cannot be, or an error."""
    global _mark_unencodable  # noqa: PLW0603 (a worker serves one pool)
    _mark_unencodable = mark


def encode_frames_by(encoder: Optional[Encoder]) -> None:
    """Sets the encoder of frames; None sends maps of lists."""
    global _frame_encoder  # noqa: PLW0603 (a worker serves one pool)
    _frame_encoder = encoder


def is_encoded_frame(value: object) -> bool:
    """Whether `value` is a frame that is not sent as a map of lists."""
    return _frame_encoder is not None and _encoder(type(value)) in _FRAME_ENCODERS


def is_array(value: object) -> bool:
    """Whether `value` is a numpy array."""
    return _encoder(type(value)) is array


def substitute(value: object) -> object:
    """Returns what is sent in place of `value`, which may need a substitute again.

    Raises an `InvalidValueError` whose message continues after the value's path.
    """
    cls = type(value)
    try:
        encoder = _found[cls]
    except KeyError:
        encoder = _encoder(cls)
    if encoder is None:
        return marker_or_error(
            value, f"is of type {qualified_name(cls)}, which cannot be sent; {advice_for(cls)}"
        )
    if _frame_encoder is not None and encoder in _FRAME_ENCODERS:
        encoder = _frame_encoder
    try:
        sent = encoder(value)
        return _named(sent) if type(sent) is Columns else sent
    except InvalidValueError as error:
        return marker_or_error(value, str(error))
    except Exception as error:
        problem = f"is of type {qualified_name(cls)}, whose encoder raised {repr_of(error)}"
        raise InvalidValueError(problem) from error


class Substitutes:
    """What is sent in place of the values in a result, or in a field of it."""

    def of(self, value: object) -> object:
        """As `substitute`."""
        return substitute(value)

    def clear(self) -> None:
        """Keeps nothing any more: has to be called at the end."""


class _KeptSubstitutes(Substitutes):
    """Runs a registered encoder once for each value, however often its substitute is needed.

    It may read what can be read only once.
    """

    def __init__(self) -> None:
        # Each with its value, whose id no other value has for as long as it is kept; for one that
        # cannot be sent, why. The traceback of its encoder may have this object.
        self._kept: dict[int, tuple[object, object, Optional[str], Optional[BaseException]]] = {}

    def clear(self) -> None:
        self._kept.clear()

    def of(self, value: object) -> object:
        if _registered.keys().isdisjoint(type(value).__mro__):
            return substitute(value)
        if id(value) in self._kept:
            return self._again(value)
        try:
            sent = substitute(value)
        except InvalidValueError as error:
            self._kept[id(value)] = value, None, str(error), error.__cause__
            raise
        self._kept[id(value)] = value, sent, None, None
        return sent

    def _again(self, value: object) -> object:
        _, sent, problem, cause = self._kept[id(value)]
        if problem is not None:
            raise InvalidValueError(problem) from cause
        return sent


#: For as long as no encoder is registered.
DIRECT = Substitutes()


def substitutes() -> Substitutes:
    """Returns what gives the substitutes for one field."""
    return _KeptSubstitutes() if _registered else DIRECT


def marker_or_error(value: object, problem: str) -> object:
    """Returns the marker of a value that cannot be sent, or raises the error."""
    if _mark_unencodable:
        return {UNENCODABLE: qualified_name(type(value))}
    raise InvalidValueError(problem)


def _encoder(cls: type) -> Optional[Encoder]:
    try:
        return _found[cls]
    except KeyError:
        found = (_registered.get(base) or encoder_of(base) for base in cls.__mro__)
        encoder = next(filter(None, found), None) or encoder_by_shape(cls)
        if len(_found) >= _MAX_FOUND:
            _found.clear()
        _found[cls] = encoder
        return encoder


def is_encoded(cls: type) -> bool:
    """Whether there is an encoder for the values of a class."""
    return _encoder(cls) is not None


def key_text(key: object) -> str:
    """Returns the text of a key: of what is sent for it, or its `str` if that is not a scalar.

    Raises an `InvalidValueError` whose message continues after the path of the dict.
    """
    if isinstance(key, str):
        return str.__str__(key)
    try:
        text = _scalar_text(_scalar(key))
        return str(key) if text is None else text
    except InvalidValueError:
        raise
    except Exception as error:
        problem = (
            f"has a key of type {qualified_name(type(key))}, whose text raised {repr_of(error)}"
        )
        raise InvalidValueError(problem) from error


def _scalar(value: object) -> object:
    for _ in range(MAX_SUBSTITUTIONS):
        if value is None or isinstance(value, (*_SCALARS, list, tuple, dict)):
            break
        encoder = _encoder(type(value))
        if encoder is None:
            break
        value = encoder(value)
    return value


def _scalar_text(value: object) -> Optional[str]:
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, bool):
        return _JSON_WORDS[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return json.dumps(float(value))
    if not isinstance(value, bytes):
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidValueError(f"has the key {value!r}, which is not valid UTF-8") from None


def _named(columns: Columns) -> dict[str, list[Any]]:
    labels = [label for label, _ in columns.index], [label for label, _ in columns.own]
    values = [values for _, values in (*columns.index, *columns.own)]
    return dict(zip(column_names(*labels), values))


def column_names(index: Iterable[object], own: Iterable[object]) -> list[str]:
    """Returns the names of a frame's columns from their labels, those of its index first.

    Raises an `InvalidValueError` if two names are equal.
    """
    named = [_column_name(label) for label in index]
    levels = frozenset(named)
    if len(levels) < len(named):
        raise InvalidValueError(
            "has an index with two levels of the same name; rename one (rename_axis)"
        )
    found = set(levels)
    for label in own:
        name = _column_name(label)
        if name in levels:
            raise InvalidValueError(
                f"has a column and a level of its index that are both named {name!r}; "
                "rename one (rename_axis), or drop the index (reset_index(drop=True))"
            )
        if name in found:
            raise InvalidValueError(f"has two columns that are named {name!r}; rename one")
        found.add(name)
        named.append(name)
    return named


def _column_name(label: object) -> str:
    if isinstance(label, tuple):
        return "_".join(filter(None, map(key_text, label)))
    return key_text(label)
