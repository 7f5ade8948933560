"""Keeps a user's modules from replacing those of the standard library that the bridge imports.

The user's directories come first in `sys.path`, as for a script. A `platform.py` in one of them
must not be imported by the bridge, or by a standard module that it needs, as `platform`.
"""

# Import only modules here that Python has imported at its start: others may be the user's.
import os
import sys

#: The modules that the bridge, or a standard module that it uses, imports after its start.
_LATE = """
snakepit_bridge._threads.async_for_threads
snakepit_bridge._values.extended_reader snakepit_bridge._arguments.pydantic_builders
asyncio ctypes dataclasses decimal difflib hmac linecache mmap pathlib platform queue resource
socket sysconfig traceback uuid
"""

# The user's entries of `sys.path` are those before this one, the first of Python's own.
_ZIP = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"

#: The user's directories.
_users: list[str] = []


def put_users_last() -> None:
    """Moves the user's directories to the end of `sys.path`, for the imports of the bridge."""
    names = [os.path.basename(path) for path in sys.path]
    if _ZIP in names:
        _users[:] = sys.path[: names.index(_ZIP)]
        sys.path[:] = sys.path[len(_users) :] + _users


def put_users_first(import_paths: list[str]) -> None:
    """Moves them back to the front, after `import_paths`."""
    first = [*import_paths, *_users]
    if shadowing(first):
        # Otherwise they are imported when they are needed: the worker starts sooner.
        for name in _LATE.split():
            __import__(name)
    if _users and sys.path[-len(_users) :] == _users:
        del sys.path[-len(_users) :]
    sys.path[:0] = first
    _users[:] = first


def shadowing(directories: list[str]) -> list[str]:
    """Returns the user's files and directories with the name of a standard module."""
    # New in Python 3.10.
    own = getattr(sys, "stdlib_module_names", None)
    return [
        os.path.join(directory, name)
        for directory in directories
        for name in _listed(directory)
        if own is None or name.partition(".")[0] in own
    ]


def shadowed() -> list[tuple[str, str]]:
    """Returns the user's modules in whose place another was imported, and the path of that one."""
    found = []
    for path in shadowing(_users):
        name, suffix = os.path.splitext(os.path.basename(path))
        module = sys.modules.get(name)
        if module is None or suffix not in ("", ".py"):
            continue
        where = getattr(module, "__file__", None) or "built into Python"
        if not where.startswith(path):
            found.append((path, where))
    return found


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
