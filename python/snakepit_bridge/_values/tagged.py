"""The values that extended JSON represents by an object with a tag: `{"$snakepit":["bytes",0,4]}`.

Each type of such values is a row of `TYPES`, which says how its values are sent and received.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

from snakepit_bridge._types import arrow
from snakepit_bridge._types.arrow import Arrow
from snakepit_bridge._types.tensor import Tensor, array

#: The only key of such an object.
TAG = "$snakepit"
#: The key as it is in a text that has such an object.
TAG_TEXT = f'"{TAG}"'
#: The offsets of the tail, and of the tensors and tables in it, are multiples of this.
ALIGNMENT = 64

BYTES_CLASSES = (bytes, bytearray, memoryview)

#: Appends binaries to the tail, at a multiple of a number; returns their offset and size.
Put = Callable[[Sequence[Union[bytes, memoryview]], int], tuple[int, int]]
#: The part of the tail at an offset, of a size.
Cut = Callable[[int, int], memoryview]


class TaggedType:
    __slots__ = ("annotations", "classes", "decode", "encode", "name")

    def __init__(
        self,
        name: str,
        classes: tuple[type, ...],
        encode: Callable[[Any, Put], Sequence[object]],
        decode: Callable[[Sequence[Any], Cut], Any],
        annotations: tuple[str, ...] = (),
    ) -> None:
        #: The first item of the array under the key.
        self.name = name
        #: The classes whose values are sent with this tag.
        self.classes = classes
        #: The items of the array that follow the name.
        self.encode = encode
        #: The value that the array represents.
        self.decode = decode
        #: The annotations of parameters that take such a value, by the first part of the module's
        #: name and the class's own.
        self.annotations = annotations


def _encode_bytes(value: Any, put: Put) -> Sequence[object]:
    return put([bytes(value)], 1)


def _decode_bytes(items: Sequence[Any], cut: Cut) -> bytes:
    _name, offset, size = items
    return bytes(cut(offset, size))


def _encode_tensor(tensor: Tensor, put: Put) -> Sequence[object]:
    return tensor.dtype, tensor.shape, *put([tensor.data], ALIGNMENT)


def _decode_tensor(items: Sequence[Any], cut: Cut) -> Any:
    _name, dtype, shape, offset, size = items
    return array(dtype, shape, cut(offset, size))


def _encode_arrow(table: Arrow, put: Put) -> Sequence[object]:
    return put(table.stream(), ALIGNMENT)


def _decode_arrow(items: Sequence[Any], cut: Cut) -> Any:
    _name, offset, size = items
    return arrow.read(cut(offset, size))


TYPES = (
    TaggedType("bytes", BYTES_CLASSES, _encode_bytes, _decode_bytes),
    TaggedType(
        "tensor",
        (Tensor,),
        _encode_tensor,
        _decode_tensor,
        annotations=("numpy.ndarray", "snakepit_bridge.Tensor"),
    ),
    TaggedType(
        "arrow",
        (Arrow,),
        _encode_arrow,
        _decode_arrow,
        annotations=("pyarrow.Table", "pyarrow.RecordBatch"),
    ),
)

#: The classes of all values with a tag.
TAGGED_CLASSES = tuple(cls for one in TYPES for cls in one.classes)
TYPES_BY_CLASS = {cls: one for one in TYPES for cls in one.classes}
TYPES_BY_NAME = {one.name: one for one in TYPES}
ANNOTATIONS = frozenset(name for one in TYPES for name in one.annotations)


def type_of_subclass(value: object) -> Optional[TaggedType]:
    """The type of a value whose class is derived from one of a row; None for other values."""
    if not isinstance(value, TAGGED_CLASSES):
        return None
    return next(one for one in TYPES if isinstance(value, one.classes))
