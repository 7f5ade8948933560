"""The encoders of well-known types. A type is recognized by its name: no package is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from typing import Any, Optional

from snakepit_bridge._types import arrays, frames
from snakepit_bridge._types.names import class_name, module_name
from snakepit_bridge._types.snapshot import items, read_stable

Encoder = Callable[[Any], object]

#: Replaces a secret of any length.
MASK = "*" * 10


def _isoformat(value: Any) -> object:
    return value.isoformat()


def _item(value: Any) -> object:
    return value.item()


def _nothing(_value: object) -> None:
    return None


def _masked(_value: object) -> str:
    return MASK


def _attributes(value: Any) -> dict[str, object]:
    return dict(vars(value))


def _model(value: Any) -> object:
    return value.model_dump() if hasattr(value, "model_dump") else value.dict()


_KNOWN: dict[str, Encoder] = {
    "builtins.bytearray": bytes,
    "builtins.memoryview": bytes,
    "builtins.range": list,
    "argparse.Namespace": _attributes,
    "array.array": lambda value: value.tolist(),
    "collections.UserString": str,
    "datetime.date": _isoformat,
    "datetime.time": _isoformat,
    "datetime.timedelta": lambda value: value.total_seconds(),
    "datetime.tzinfo": str,
    "decimal.Decimal": str,
    "enum.Enum": lambda value: value.value,
    "fractions.Fraction": str,
    "ipaddress.IPv4Address": str,
    "ipaddress.IPv4Network": str,
    "ipaddress.IPv6Address": str,
    "ipaddress.IPv6Network": str,
    "types.SimpleNamespace": _attributes,
    "uuid.UUID": str,
    "numpy.MaskedArray": arrays.lists,
    "numpy.ndarray": arrays.array,
    "numpy.datetime64": arrays.scalar,
    "numpy.timedelta64": arrays.scalar,
    "numpy.void": arrays.scalar,
    "numpy.longdouble": arrays.long_double,
    "numpy.float96": arrays.long_double,
    "numpy.float128": arrays.long_double,
    "numpy.generic": _item,
    "pandas.NAType": _nothing,
    "pandas.NaTType": _nothing,
    "pandas.DataFrame": frames.pandas_frame,
    "pandas.Series": frames.pandas_series,
    "pandas.Index": frames.pandas_values,
    "pandas.ExtensionArray": frames.pandas_values,
    "pandas.Interval": frames.pandas_interval,
    "pandas.Period": str,
    "polars.DataFrame": frames.polars_frame,
    "polars.Series": frames.polars_values,
    "pyarrow.Table": frames.arrow_table,
    "pyarrow.RecordBatch": frames.arrow_table,
    "pyarrow.ChunkedArray": frames.arrow_values,
    "pyarrow.Array": frames.arrow_values,
    "pyarrow.Scalar": frames.arrow_scalar,
    "pydantic.BaseModel": _model,
    "pydantic.AnyUrl": str,
    "pydantic._BaseUrl": str,
    "pydantic._BaseMultiHostUrl": str,
    "pydantic_core.Url": str,
    "pydantic_core.MultiHostUrl": str,
    "pydantic._SecretBase": _masked,
    "pydantic.SecretStr": _masked,
    "pydantic.SecretBytes": _masked,
    "torch.Tensor": arrays.torch_tensor,
}

#: Advice for types that cannot be sent.
_ADVICE = {
    "builtins.async_generator": "iterate over it, or make the command itself an async generator",
    "builtins.complex": "send its real and its imag",
    "builtins.coroutine": "await it",
    "builtins.BaseException": "raise it, or send str(error)",
    "_io._IOBase": "send what read() gives, or the file's path",
    "numpy.complexfloating": "send its real and its imag",
    "pandas.BaseGroupBy": "aggregate it, as sum() does",
    "polars.LazyFrame": "send what collect() gives",
    "pyarrow.RecordBatchReader": "send what read_all() gives, or arrow(reader)",
    "re.Match": "send its group(), groups() or groupdict()",
    "re.Pattern": "send its pattern",
}


def encoder_of(base: type) -> Optional[Encoder]:
    """Returns the encoder of a class that is recognized by its name."""
    return _KNOWN.get(_name(base))


def encoder_by_shape(cls: type) -> Optional[Encoder]:
    """Returns the encoder of a class that is recognized by its attributes or its base."""
    if hasattr(cls, "__dataclass_fields__"):
        return _dataclass_fields
    if hasattr(cls, "__attrs_attrs__"):
        return _attrs_fields
    if hasattr(cls, "__struct_fields__"):
        return _struct_fields
    if hasattr(cls, "__fspath__"):
        return os.fspath
    if issubclass(cls, Mapping):
        return _mapping
    return _list if issubclass(cls, (AbstractSet, Sequence, ValuesView)) else None


def advice_for(cls: type) -> str:
    """Returns advice for a class whose values cannot be sent."""
    known = (_ADVICE.get(_name(base)) for base in cls.__mro__)
    advice = next(filter(None, known), None)
    if advice is None and issubclass(cls, Iterator):
        advice = "send a list of its items, or yield them from a command that is a generator"
    return advice or f"register_encoder({cls.__name__}, ...) says what is sent in its place"


def _name(cls: type) -> str:
    """Returns the first part of the module's name, and the class's name."""
    return f"{module_name(cls).partition('.')[0]}.{class_name(cls)}"


def _mapping(value: Mapping[Any, Any]) -> dict[Any, Any]:
    return dict(items(value))


def _list(value: Collection[Any]) -> list[Any]:
    return read_stable(lambda: list(value))


def _dataclass_fields(value: Any) -> dict[str, object]:
    import dataclasses

    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _attrs_fields(value: Any) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}


def _struct_fields(value: Any) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__struct_fields__}
