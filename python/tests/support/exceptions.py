"""Exceptions that fail when they are described, one for each name and random ones."""

from __future__ import annotations

import asyncio
import builtins
import random
import urllib.error
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

from snakepit_bridge import BuiltinAdapter, CommandError, command


def raising(error: type[BaseException], *args: Any) -> Any:
    """A method, or the getter of a property, that raises."""

    def method(*_args: Any, **_keywords: Any) -> Any:
        raise error(*args)

    return method


class ApiError(Exception):
    """Its attributes are those of the service's reply."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__("quota exceeded")
        self.payload = payload

    def __getattr__(self, name: str) -> Any:
        return self.payload[name]


class Lazy:
    __str__ = __repr__ = raising(RuntimeError, "not translated yet")


class ExitingError(Exception):
    __str__ = raising(SystemExit, 3)


class InterruptingError(Exception):
    __str__ = raising(KeyboardInterrupt)


class Texts(str):
    """A text whose methods must not be called."""

    __slots__ = ()
    __len__ = __getitem__ = __str__ = __format__ = encode = raising(ZeroDivisionError)


class OddTextError(Exception):
    def __str__(self) -> str:
        return Texts("odd")


class OddClassError(Exception):
    __class__ = property(raising(KeyError, "class"))
    __module__ = property(raising(KeyError, "module"))
    __cause__ = property(raising(KeyError, "cause"))
    __context__ = property(raising(KeyError, "context"))
    __traceback__ = property(raising(KeyError, "traceback"))
    __notes__ = property(raising(ZeroDivisionError))
    __dict__ = property(raising(KeyError, "dict"))


class OddMeta(type):
    __getattribute__ = __instancecheck__ = __subclasscheck__ = raising(SystemExit)
    __eq__ = __hash__ = __repr__ = __call__ = raising(KeyError, "meta")


class OddMetaError(Exception, metaclass=OddMeta):
    pass


class OddCommandError(CommandError):
    code = property(raising(KeyError, "code"))
    data = property(raising(SystemExit))

    def __init__(self) -> None:
        Exception.__init__(self, "odd")


class EverythingError(Exception):
    """Raises at every access."""

    __getattribute__ = __str__ = __repr__ = __eq__ = __hash__ = __bool__ = raising(SystemExit)
    __format__ = __reduce__ = __reduce_ex__ = __sizeof__ = __dir__ = raising(SystemExit)


def named(name: str) -> Exception:
    class NamedError(Exception):
        pass

    NamedError.__qualname__ = name
    return NamedError("hm")


def noted(notes: Any) -> Exception:
    error = ValueError("noted")
    error.__notes__ = notes  # type: ignore[attr-defined]
    return error


def cycle() -> Exception:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    return one


def chain(length: int) -> Exception:
    error = ValueError("0")
    for number in range(1, length):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    return error


def chain_of(text: str) -> Exception:
    error = ValueError(text)
    for _ in range(10):
        outer = noted([text] * 20)
        outer.__cause__ = error
        outer.args = (text,)
        error = outer  # type: ignore[assignment]
    return error


def group(depth: int, width: int = 1) -> Exception:
    # New in Python 3.11.
    make: Any = getattr(builtins, "ExceptionGroup", lambda name, _errors: ValueError(name))
    error: Exception = ValueError("leaf")
    for number in range(depth):
        error = make(str(number), [error] * width)
    return error


def circular() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["data"] = data
    return data


def from_file(name: str, source: bytes, directory: str) -> Exception:
    path = str(Path(directory) / name)
    with open(path.encode(errors="surrogateescape"), "wb") as file:
        file.write(source)
    try:
        exec(compile("1/0", path, "exec"), {})
    except ZeroDivisionError as error:
        return error
    raise AssertionError


def recursion() -> Exception:
    def recurse() -> None:
        recurse()

    try:
        recurse()
    except RecursionError as error:
        return error
    raise AssertionError


def wrapped(error: BaseException) -> Exception:
    outer = ValueError("wrapped")
    outer.__cause__ = error
    return outer


def without_traceback() -> Exception:
    class BareError(Exception):
        def __getattribute__(self, name: str) -> Any:
            if name == "__traceback__":
                return 5
            return super().__getattribute__(name)

    return BareError("bare")


MAKERS: dict[str, Any] = {
    "api": lambda _dir: ApiError({"code": 7}),
    "api_cause": lambda _dir: wrapped(ApiError({"code": 7})),
    "http": lambda _dir: urllib.error.HTTPError("http://x/", 405, "no", None, None),  # type: ignore[arg-type]
    "lazy": lambda _dir: ValueError(Lazy()),
    "exiting": lambda _dir: ExitingError(),
    "interrupting": lambda _dir: InterruptingError(),
    "odd_text": lambda _dir: OddTextError(),
    "odd_class": lambda _dir: OddClassError("odd"),
    "odd_meta": lambda _dir: Exception.__new__(OddMetaError, "odd"),
    "odd_command_error": lambda _dir: OddCommandError(),
    "everything": lambda _dir: EverythingError(),
    "everything_cause": lambda _dir: wrapped(EverythingError()),
    "notes_number": lambda _dir: noted(5),
    "notes_odd": lambda _dir: noted([Lazy(), Texts("x"), "plain"]),
    "cycle": lambda _dir: cycle(),
    "chain": lambda _dir: chain(3000),
    "deep_group": lambda _dir: group(1500),
    "wide_group": lambda _dir: group(2, 400),
    "surrogate_name": lambda _dir: named("Bad\udce9"),
    "unnamed": lambda _dir: type("", (Exception,), {"__module__": ""})("hm"),
    "surrogate_message": lambda _dir: ValueError("\udce9"),
    "large": lambda _dir: ValueError("x" * 30_000_000),
    "code_lazy": lambda _dir: CommandError(Lazy(), "x"),  # type: ignore[arg-type]
    "code_number": lambda _dir: CommandError(404, "x"),  # type: ignore[arg-type]
    "data_object": lambda _dir: CommandError("c", "x", data={"a": object()}),
    "data_circular": lambda _dir: CommandError("c", "x", data=circular()),
    "data_lazy": lambda _dir: CommandError("c", "x", data={Lazy(): 1}),
    "latin1_source": lambda place: from_file("t.html", b"{{ caf\xe9 }}\n", place),
    "odd_coding": lambda place: from_file("t.py", b"# coding: nonsense\n1/0\n", place),
    "surrogate_file": lambda place: from_file("caf\udce9.py", b"1/0\n", place),
    "recursion": lambda _dir: recursion(),
    "memory": lambda _dir: MemoryError(),
    "no_traceback": lambda _dir: without_traceback(),
    "generator_exit": lambda _dir: GeneratorExit(),
    "stop_async": lambda _dir: StopAsyncIteration(),
    "cancelled": lambda _dir: asyncio.CancelledError(),
    "data_large": lambda _dir: CommandError("c", "x", data={"x": "y" * 1_000_000}),
    "data_escaped": lambda _dir: CommandError("c", "x", data={"x": "\0" * 30_000}),
    "long_lines": lambda _dir: chain_of("z" * 20_000),
    "exit": lambda _dir: SystemExit(Lazy()),
}

#: The members of a random class.
ATTRIBUTES = [
    "__str__",
    "__repr__",
    "__getattr__",
    "__getattribute__",
    "__class__",
    "__cause__",
    "__context__",
    "__notes__",
    "__dict__",
    "__traceback__",
    "__suppress_context__",
    "__module__",
    "__doc__",
    "__eq__",
    "__hash__",
    "__bool__",
    "__len__",
    "__iter__",
    "with_traceback",
    "add_note",
    "args",
    "code",
    "data",
    "name",
    "msg",
    "filename",
    "lineno",
    "offset",
    "text",
    "exceptions",
    "print_file_and_line",
    "__reduce__",
    "__format__",
    "__sizeof__",
    "__dir__",
    "__init_subclass__",
    "__del__",
]
RAISED = [KeyError, RuntimeError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError]
VALUES: list[Any] = [None, 5, "x", b"\xff", "\udce9", [Lazy()], Lazy(), Texts("t"), 1 << 80]
BASES: list[type[BaseException]] = [
    Exception,
    BaseException,
    ValueError,
    KeyError,
    OSError,
    ImportError,
    SyntaxError,
    UnicodeError,
    StopAsyncIteration,
    CommandError,
]


SET_CAUSE = BaseException.__dict__["__cause__"].__set__


def random_error(seed: int, depth: int = 0) -> BaseException:
    rng = random.Random(seed)
    body: dict[str, Any] = {}
    for name in rng.sample(ATTRIBUTES, rng.randrange(6)):
        method = raising(rng.choice(RAISED), "odd")
        body[name] = rng.choice([method, property(method), rng.choice(VALUES)])
    body.pop("__init_subclass__", None)
    body.pop("__del__", None)
    body["__init__"] = lambda *_args: None
    base = rng.choice(BASES)
    metaclass = rng.choice([type(base), type(base), OddMeta])
    try:
        cls: Any = metaclass(rng.choice(["Odd", "Ö"]), (base,), body)
        error: BaseException = base.__new__(cls, *rng.sample(VALUES, rng.randrange(3)))
    except BaseException:
        return ValueError(f"seed {seed} makes no exception")
    if depth < 3 and rng.random() < 0.4:
        SET_CAUSE(error, random_error(rng.randrange(10**6), depth + 1))
    return error


class Exceptions(BuiltinAdapter):
    @command
    def names(self) -> list[str]:
        return list(MAKERS)

    @command
    def fail(self, how: str, directory: str) -> None:
        raise MAKERS[how](directory)

    @command
    async def fail_async(self, how: str, directory: str) -> None:
        raise MAKERS[how](directory)

    @command
    def fail_stream(self, how: str, directory: str) -> Generator[int, None, None]:
        yield 1
        raise MAKERS[how](directory)

    @command
    async def fail_async_stream(self, how: str, directory: str) -> AsyncGenerator[int, None]:
        yield 1
        raise MAKERS[how](directory)

    @command
    def fail_randomly(self, seed: int) -> None:
        raise random_error(seed)

    @command
    async def fail_randomly_async(self, seed: int) -> None:
        raise random_error(seed)

    @command
    def fail_randomly_stream(self, seed: int) -> Generator[int, None, None]:
        yield 1
        raise random_error(seed)

    @command
    async def fail_randomly_async_stream(self, seed: int) -> AsyncGenerator[int, None]:
        yield 1
        raise random_error(seed)

    @command
    def panic(self, where: str) -> Any:
        """Raises the exception that Rust's bindings turn into a panic."""
        kinds = [one for one in BaseException.__subclasses__() if one.__name__ == "PanicException"]
        error = kinds[0]("on purpose")

        class Value:
            def isoformat(self) -> str:
                raise error

        if where == "result":
            Value.__module__, Value.__name__ = "datetime", "date"
            return Value()
        raise error

    @command
    async def panic_async(self) -> None:
        self.panic("here")

    @command
    def panic_stream(self) -> Generator[int, None, None]:
        yield 1
        self.panic("here")
