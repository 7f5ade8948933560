"""Which modules are the bridge's, and which the user's, where both have one of the same name.

The user's directories come first in `sys.path`, as they do for a script. A `platform.py` in one of
them must not be what the bridge, or a module of Python's own that it needs, imports as `platform`.
"""

# Nothing is imported here that Python's start has not imported: it may be the user's.
import os
import sys

#: What the bridge, or what it uses of Python's own, imports at a later time than its start.
_LATE = """
snakepit_bridge._threads.async_for_threads
snakepit_bridge._values.extended_reader snakepit_bridge._arguments.pydantic_builders
asyncio ctypes dataclasses decimal difflib hmac linecache mmap pathlib platform queue resource
traceback uuid
"""

# The user's part of `sys.path` ends before this entry, where Python's own begins.
_ZIP = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"

#: The user's directories.
_users: list[str] = []


def put_users_last() -> None:
    """Has the bridge import what it needs from elsewhere than from the user's directories."""
    names = [os.path.basename(path) for path in sys.path]
    if _ZIP in names:
        _users[:] = sys.path[: names.index(_ZIP)]
        sys.path[:] = sys.path[len(_users) :] + _users


def put_users_first(import_paths: list[str]) -> None:
    """Ends that, with `import_paths` before all others."""
    first = [*import_paths, *_users]
    if shadowing(first):
        # Else it is imported when it is needed, if ever: the worker starts sooner.
        for name in _LATE.split():
            __import__(name)
    if _users and sys.path[-len(_users) :] == _users:
        del sys.path[-len(_users) :]
    sys.path[:0] = first
    _users[:] = first


def shadowing(directories: list[str]) -> list[str]:
    """The files and directories of the user that are named as modules of Python's own."""
    # New in Python 3.10.
    own = getattr(sys, "stdlib_module_names", None)
    return [
        os.path.join(directory, name)
        for directory in directories
        for name in _listed(directory)
        if own is None or name.partition(".")[0] in own
    ]


def shadowed() -> list[tuple[str, str]]:
    """The user's modules in whose place others were imported, each with where that other one is."""
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
