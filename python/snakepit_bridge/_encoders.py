"""What is sent in place of a value of a type that is none of the wire's own.

None, bool, int, float, str, bytes, list, tuple, dict and `Tensor` are. No other package is imported
here: a type is known by its name, and its values are asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any, Optional, TypeVar, Union, overload

from snakepit_bridge._invalid import InvalidValueError, qualified_name
from snakepit_bridge._tensor import of_array

_Encoder = Callable[[Any], object]
_F = TypeVar("_F", bound=_Encoder)

#: The key of the map that stands for a value that cannot be sent, where the pool wants one.
UNENCODABLE = "$unencodable"

_registered: dict[type, _Encoder] = {}
_found: dict[type, Optional[_Encoder]] = {}
_mark_unencodable = False


@overload
def register_encoder(cls: type) -> Callable[[_F], _F]: ...


@overload
def register_encoder(cls: type, encoder: _F) -> _F: ...


def register_encoder(
    cls: type, encoder: Optional[_Encoder] = None
) -> Union[_Encoder, Callable[[_F], _F]]:
    """Says what is sent in place of the values of a class and of its subclasses.

    `encoder` takes a value and returns another one. Without it this is a decorator:

    @register_encoder(Point)
    def encode_point(point: Point) -> dict[str, float]:
        return {"x": point.x, "y": point.y}

    Classes derived from None's, bool, int, float, str, bytes, list, tuple and dict are sent as what
    they are derived from.
    """

    def register(encoder: _F) -> _F:
        _registered[cls] = encoder
        _found.clear()
        return encoder

    return register if encoder is None else register(encoder)


def mark_unencodable(*, mark: bool) -> None:
    """Whether a marker map is sent in place of what cannot be, rather than an error."""
    global _mark_unencodable  # noqa: PLW0603 (a worker serves one pool)
    _mark_unencodable = mark


def substitute(value: object) -> object:
    """What is sent in place of `value`; it may need a substitute in turn.

    Raises an `InvalidValueError` of which the message goes on after the value's path.
    """
    cls = type(value)
    try:
        encoder = _found[cls]
    except KeyError:
        encoder = _found[cls] = _find(cls)
    if encoder is None:
        kind = qualified_name(cls)
        return refused(
            value, f"is of type {kind}, which cannot be sent; register_encoder({cls.__name__}, ...)"
        )
    try:
        return encoder(value)
    except InvalidValueError as error:
        return refused(value, str(error))
    except Exception as error:
        problem = f"is of type {qualified_name(cls)}, whose encoder raised {error!r}"
        raise InvalidValueError(problem) from error


def refused(value: object, problem: str) -> object:
    """The marker of a value that cannot be sent, or the error."""
    if _mark_unencodable:
        return {UNENCODABLE: qualified_name(type(value))}
    raise InvalidValueError(problem)


def _isoformat(value: Any) -> object:
    return value.isoformat()


def _without_missing(value: Any) -> Any:
    return value.astype(object).where(value.notna(), None)


def _nothing(_value: object) -> None:
    return None


# By the first part of the module's name and the class's own.
_KNOWN: dict[str, _Encoder] = {
    "builtins.bytearray": bytes,
    "builtins.memoryview": bytes,
    "builtins.range": list,
    "datetime.date": _isoformat,
    "datetime.time": _isoformat,
    "datetime.timedelta": lambda value: value.total_seconds(),
    "decimal.Decimal": str,
    "enum.Enum": lambda value: value.value,
    "uuid.UUID": str,
    "numpy.ndarray": of_array,
    "numpy.datetime64": str,
    "numpy.timedelta64": str,
    "numpy.generic": lambda value: value.item(),
    "pandas.NAType": _nothing,
    "pandas.NaTType": _nothing,
    "pandas.DataFrame": lambda value: _without_missing(value).to_dict(orient="list"),
    "pandas.Series": lambda value: _without_missing(value).tolist(),
    "pandas.Index": lambda value: value.tolist(),
    "polars.DataFrame": lambda value: value.to_dict(as_series=False),
    "polars.Series": lambda value: value.to_list(),
    "pyarrow.Table": lambda value: value.to_pydict(),
    "pyarrow.RecordBatch": lambda value: value.to_pydict(),
    "pyarrow.ChunkedArray": lambda value: value.to_pylist(),
    "pyarrow.Array": lambda value: value.to_pylist(),
    "pyarrow.Scalar": lambda value: value.as_py(),
    "pydantic.BaseModel": lambda value: (
        value.model_dump() if hasattr(value, "model_dump") else value.dict()
    ),
    "torch.Tensor": lambda value: value.detach().cpu().numpy(),
}


def _find(cls: type) -> Optional[_Encoder]:
    for base in cls.__mro__:
        name = f"{base.__module__.partition('.')[0]}.{base.__name__}"
        encoder = _registered.get(base) or _KNOWN.get(name)
        if encoder is not None:
            return encoder
    if hasattr(cls, "__dataclass_fields__"):
        return _fields
    if hasattr(cls, "__fspath__"):
        return os.fspath
    if issubclass(cls, Mapping):
        return dict
    return list if issubclass(cls, (AbstractSet, Sequence, ValuesView)) else None


def _fields(value: Any) -> dict[str, object]:
    import dataclasses

    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
