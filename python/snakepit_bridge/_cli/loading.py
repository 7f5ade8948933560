"""Finds and creates the adapter that the command line names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Optional

from snakepit_bridge._arguments import init_args
from snakepit_bridge._commands.adapter import Adapter
from snakepit_bridge._commands.registry import Registry
from snakepit_bridge._errors.exits import StartError
from snakepit_bridge._errors.raised import Raised
from snakepit_bridge._process import imports
from snakepit_bridge._threads.hook_runner import HookRunner


def find_adapter(path: str, import_paths: Sequence[str]) -> type[Adapter]:
    """Returns the class at `path`, which has the form `module:Class`."""
    imports.put_users_first(list(import_paths))
    cls = _find(path)
    if not (isinstance(cls, type) and issubclass(cls, Adapter)):
        raise StartError(
            f"{path} is not an adapter: it must be a subclass of snakepit_bridge.Adapter"
        )
    return cls


def load_commands(path: str, import_paths: Sequence[str], init: Optional[bytes] = None) -> Registry:
    """Returns the commands of an instance of the class at `path`, of the form `module:Class`.

    `init` has the keyword arguments of the class, if any, as extended JSON.
    """
    cls = find_adapter(path, import_paths)
    try:
        keywords = init_args.keywords(cls, init)
    except init_args.InitError as error:
        raise StartError(
            f"the adapter {path} could not be created with the arguments of `adapter_args: [init: "
            f"...]`: {error}"
        ) from None
    try:
        adapter = cls(**keywords)
    except (Exception, SystemExit) as error:
        raise StartError(
            f"{Raised(error).text()}\nthe adapter {path} could not be created: its __init__ raised "
            f"the error above{_shadowed()}"
        ) from None
    try:
        commands = Registry(adapter)
    except TypeError as error:
        raise StartError(f"{path}: {error}") from None
    if not commands:
        raise StartError(
            f"{path} has no commands: put @command above the methods that are commands"
        )
    return commands


def start(hooks: HookRunner, path: str) -> None:
    """Runs the adapter's `start`."""
    try:
        hooks.start()
    except (Exception, SystemExit) as error:
        raise StartError(
            f"{Raised(error).text()}\nthe adapter {path} did not start: its start() raised the "
            "error above"
        ) from None


def _find(path: str) -> object:
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise StartError(f"--adapter {path!r} must have the form module:Class")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise StartError(
                f"no module {error.name!r} for the adapter {path}: add its directory with "
                f"--import-path; searched: {', '.join(filter(None, sys.path))}{_shadowed()}"
            ) from None
        raise _import_failed(path, error) from None
    except (Exception, SystemExit) as error:
        raise _import_failed(path, error) from None
    for name in class_name.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            where = getattr(sys.modules[module_name], "__file__", None) or "built into Python"
            raise StartError(
                f"the module {module_name!r} ({where}) has no {class_name!r}{_shadowed()}"
            ) from None
    return found


def _import_failed(path: str, error: BaseException) -> StartError:
    return StartError(
        f"{Raised(error).text()}\nthe adapter {path} could not be imported: see the error above"
        f"{_shadowed()}"
    )


def _shadowed() -> str:
    return "".join(
        f"; {path} is not imported because {module} has the same name: rename it"
        for path, module in imports.shadowed()
    )
