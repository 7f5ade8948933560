"""Finds and makes the adapter that the command line names."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

from snakepit_bridge._adapter import Adapter
from snakepit_bridge._commands import Registry


class StartError(Exception):
    """Why the worker cannot start and what to do about it: the whole message for the user."""

    exit_code = 1


class NoServerError(StartError):
    """There is no gRPC to be had here: the parent may have another way."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


def load_commands(path: str, import_paths: Sequence[str]) -> Registry:
    """The commands of an instance of the class at `path`, which is `module:Class`."""
    sys.path[0:0] = import_paths
    cls = _find(path)
    if not (isinstance(cls, type) and issubclass(cls, Adapter)):
        raise StartError(
            f"{path} is not an adapter: it must be a subclass of snakepit_bridge.Adapter"
        )
    try:
        adapter = cls()
    except Exception:
        raise StartError(
            f"{traceback.format_exc()}\nthe adapter {path} could not be made: its __init__, which "
            "is called without arguments, raised the error above"
        ) from None
    try:
        commands = Registry(adapter)
    except TypeError as error:
        raise StartError(f"{path}: {error}") from None
    if not commands:
        raise StartError(f"{path} has no commands: put @command above the methods that are some")
    return commands


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
                f"--import-path; searched were {', '.join(filter(None, sys.path))}"
            ) from None
        raise _import_failed(path) from None
    except Exception:
        raise _import_failed(path) from None
    for name in class_name.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise StartError(f"the module {module_name!r} has no {class_name!r}") from None
    return found


def _import_failed(path: str) -> StartError:
    return StartError(
        f"{traceback.format_exc()}\nthe adapter {path} could not be imported: see the error above"
    )
