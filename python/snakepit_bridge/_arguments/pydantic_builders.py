"""Builders that use pydantic, if it is installed and an annotation needs it."""

from __future__ import annotations

from typing import Any, Optional

from snakepit_bridge._arguments.builders import Builder, MismatchError
from snakepit_bridge._errors.call_error import Fault

# The metadata of `Annotated` that check a value of the type, and convert nothing.
_CHECKS = ("AfterValidator", "FieldInfo", "StringConstraints")
_ATTRIBUTES = (
    "__pydantic_core_schema__",
    "__get_pydantic_core_schema__",
    "__pydantic_config__",
    "__pydantic_validator__",
)


class Adapter(Builder):
    """Builds a value with pydantic."""

    def __init__(self, expected: str, adapter: Any, error: type[Exception]) -> None:
        super().__init__(expected)
        self._validate = adapter
        self._error = error

    def build(self, value: Any) -> Any:
        try:
            return self._validate(value)
        except self._error as error:
            faults: Any = error.errors()  # type: ignore[attr-defined]
        raise MismatchError([Fault(_without_root(fault["loc"]), fault["msg"]) for fault in faults])


def _without_root(path: tuple[object, ...]) -> tuple[object, ...]:
    return () if path == ("__root__",) else path


def is_pydantic(cls: type) -> bool:
    """Whether pydantic builds a class: a model, a type of pydantic, one that has its attributes."""
    return (
        _root(cls) == "pydantic"
        or any(hasattr(cls, name) for name in _ATTRIBUTES)
        or is_pydantic_1(cls)
    )


def is_pydantic_1(cls: type) -> bool:
    """Whether a class is a model of pydantic 1."""
    return hasattr(cls, "parse_obj") and not hasattr(cls, "model_validate")


def is_pydantic_metadata(metadata: object) -> bool:
    """Whether metadata of `Annotated` means something to pydantic."""
    return _root(type(metadata)) in ("pydantic", "annotated_types") or any(
        hasattr(metadata, name) for name in _ATTRIBUTES
    )


def only_checks(metadata: object) -> bool:
    """Whether metadata only check a value, and convert nothing."""
    if not is_pydantic_metadata(metadata) or _root(type(metadata)) == "annotated_types":
        return True
    discriminates = getattr(metadata, "discriminator", None) is not None
    return type(metadata).__name__ in _CHECKS and not discriminates


def adapter(annotation: Any, expected: str) -> Optional[Adapter]:
    """Returns pydantic's builder for an annotation; None without pydantic, or if it has none."""
    if isinstance(annotation, type) and is_pydantic_1(annotation):
        return _pydantic_1_adapter(annotation, expected)
    try:
        import pydantic
    except ImportError:
        return None
    if not hasattr(pydantic, "TypeAdapter"):
        return None
    try:
        if hasattr(annotation, "model_rebuild"):
            annotation.model_rebuild()
        validate = pydantic.TypeAdapter(annotation).validate_python
    except (pydantic.errors.PydanticUserError, pydantic.errors.PydanticUndefinedAnnotation):
        return None
    return Adapter(expected, validate, pydantic.ValidationError)


def _pydantic_1_adapter(model: Any, expected: str) -> Adapter:
    """Returns the builder for a model of pydantic 1, which version 2 has as `pydantic.v1`."""
    import importlib

    base = next(cls for cls in model.__mro__ if _root(cls) == "pydantic")
    within = "pydantic.v1" if base.__module__.startswith("pydantic.v1") else "pydantic"
    error: type[Exception] = importlib.import_module(within).ValidationError

    def parse(value: Any) -> object:
        return value if isinstance(value, model) else model.parse_obj(value)

    return Adapter(expected, parse, error)


def _root(cls: type) -> str:
    return str(cls.__module__).partition(".")[0]
